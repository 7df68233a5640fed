"Caption noise and drift between splits: by hand, against other routes, and on the official ROCOv2 text."

import math
import re
import time
import warnings
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from scipy import stats

from concept_tables import CAPTIONS, NAMES, ONE, SPLITS, TWO, both, lines, toy
from radgen.core.errors import ConfigError
from radgen.data.drift import (
    CASED,
    NOISE,
    caption_noise,
    concept_drift,
    drift_distance,
    noise_examples,
    plot_caption_noise,
    plot_concept_drift,
)
from radgen.data.rocov2 import read_rocov2


NOISY = {
    "arrow or mark": [1987, 3194, 3231],
    "panel letter": [85, 153, 162],
    "figure or case number": [555, 235, 253],
    "reference or credit": [41, 45, 41],
    "patient's age": [337, 441, 435],
    "abbreviation": [5356, 4834, 4728],
    "measurement or scale bar": [428, 585, 567],
    "any": [7011, 6703, 6666],
}


def test_caption_noise():
    table = pd.DataFrame(
        {
            "split": ["train", "train", "train", "train", "valid", "test"],
            "caption": [
                "Figure 3. Nodule (arrow)",
                "CT of a 45-year-old man",
                "A normal chest",
                "  ",
                "",
                "(A) 3 cm mass [12]",
            ],
        }
    )
    n = caption_noise(table)
    assert n.columns.tolist() == list(SPLITS)
    assert n.index.tolist() == [*NOISE, "any"]
    third = {"arrow or mark", "figure or case number", "patient's age", "abbreviation"}
    assert set(n.index[(n.train - 1 / 3).abs() < 1e-9]) == third
    assert n.train["any"] == pytest.approx(2 / 3)
    assert n.train.drop([*third, "any"]).tolist() == [0, 0, 0]
    assert n.valid.isna().all()  # no caption, no share
    test = ["panel letter", "reference or credit", "measurement or scale bar", "any"]
    assert n.test[n.test > 0].index.tolist() == test
    assert caption_noise(table[table.caption.str.strip() == ""]).isna().to_numpy().all()


@pytest.mark.parametrize(
    "kind, text",
    [
        ("arrow or mark", "ARROW"),
        ("figure or case number", "FIG. 2"),
        ("reference or credit", "COURTESY OF"),
        ("patient's age", "3 YEARS OLD"),
        ("measurement or scale bar", "3 CM"),
    ],
)
def test_noise_in_capitals_is_found(kind, text):
    table = toy([ONE]).assign(caption=text)
    assert caption_noise(table).loc[kind, "train"] == 1
    assert kind in noise_examples(table).kind.tolist()


def test_patterns_that_ignore_case_are_in_lower_case():
    assert [k for k, p in NOISE.items() if k not in CASED and p.pattern != p.pattern.lower()] == []


def test_noise_examples():
    table = toy(*[[ONE]] * 3).assign(
        caption=["mass (arrow)", "two arrows\nand *", "x" * 100_000 + " arrowhead " + "y" * 100_000]
    )
    assert noise_examples(table, around=4).values.tolist() == [["arrow or mark", "arrow", "…ss (arrow)"]]
    three = noise_examples(table, n=5)
    assert three.caption.tolist()[:2] == ["mass (arrow)", "two arrows and *"]
    assert len(three) == 3
    assert len(three.caption[2]) < 200
    assert noise_examples(toy([ONE]).assign(caption="a mass")).empty


PIECES = [
    "a",
    "A",
    " ",
    "(",
    "(A,",
    "(A ",
    "(A-",
    "(A and ",
    "1",
    "1 ",
    "1.",
    "1,1 ",
    "[1,",
    "[1, 1",
    "IVX",
    "AB",
    "fig",
    "fig ",
    "fig. no. ",
    "case no",
    "et al",
    "aged of",
    "year",
    "1 year-",
    "1-",
    "A, ",
    "( ) . A",
    "*",
    "t2*",
    "circle",
    "circle of ",
    "scale",
    "panel (",
    "http",
    "\u0130",
]


def search_time(pattern, piece, size):
    "Seconds for a caption of `size` characters."
    text = (piece * size)[:size]
    start = time.perf_counter()
    pattern.search(text)
    re.search(pattern.pattern, text.lower())
    return time.perf_counter() - start


@pytest.mark.parametrize("kind", NOISE)
def test_hostile_captions_take_linear_time(kind):
    for piece in PIECES:
        short, long = search_time(NOISE[kind], piece, 20_000), search_time(NOISE[kind], piece, 80_000)
        assert long < max(12 * short, 1.0), piece  # quadratic would be 16 times, and far more than a second


def test_concept_drift_by_hand():
    train = [[TWO, ONE], [TWO], [TWO, TWO], [TWO]]
    test = [[TWO], [ONE, TWO], [ONE, TWO], [TWO, ONE]]
    drift = concept_drift(both(train, test), NAMES)
    assert drift.columns.tolist() == ["cui", "name", "train", "test", "difference", "z", "p"]
    first = ["C0000001", "CT", 0.25, 0.75, 0.5, pytest.approx(2**0.5), pytest.approx(4 * 17 / 70)]
    assert drift.iloc[0].tolist() == first
    assert drift.iloc[1].tolist() == ["C0000002", "Chest", 1, 1, 0, 0, 1]


def random_table():
    rng = np.random.default_rng(0)
    splits = [
        [[f"C{c:07d}" for c in np.unique(rng.geometric(p, 3))] for _ in range(n)] for n, p in ((300, 0.2), (120, 0.3))
    ]
    return both(*splits)


def test_concept_drift_agrees_with_fisher_chi2_and_holm():
    table = random_table()
    drift = concept_drift(table, {}).set_index("cui")
    n = {s: Counter(c for cuis in table[table.split == s].cuis for c in set(cuis)) for s in ("train", "test")}
    assert set(drift.index) == set(n["train"]) | set(n["test"])
    p = {}
    for c in drift.index:
        k_a, k_b = n["train"][c], n["test"][c]
        square = [[k_b, 120 - k_b], [k_a, 300 - k_a]]
        assert drift.loc[c, ["train", "test"]].tolist() == [k_a / 300, k_b / 120]
        tails = [stats.fisher_exact(square, side).pvalue for side in ("less", "greater")]
        p[c] = min(1, 2 * min(tails))
        assert drift.z[c] ** 2 == pytest.approx(stats.chi2_contingency(square, correction=False).statistic)
        assert np.sign(drift.z[c]) == np.sign(k_b / 120 - k_a / 300)
    worst = 0
    for i, c in enumerate(sorted(p, key=p.get)):  # Holm, one by one
        worst = max(worst, min(1, (len(p) - i) * p[c]))
        assert drift.p[c] == pytest.approx(worst)
    assert drift.z.abs().diff().max() < 1e-8  # sorted


def log_binomial(n, k):
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def test_far_tails_are_exact():
    "A p value of 1e-60 by a sum of logarithms of binomials: nothing is lost to 1 - cdf."
    drift = concept_drift(both([[ONE]] * 100 + [[TWO]] * 200, [[TWO]] * 300), NAMES).set_index("cui")
    want = 4 * math.exp(log_binomial(300, 100) - log_binomial(600, 100))  # none of 100, both tails, two concepts
    assert want < 1e-30
    assert drift.p[ONE] == pytest.approx(want, rel=1e-6)
    assert drift.p[TWO] == pytest.approx(want, rel=1e-6)


def entropy(*p):
    return -sum(x * math.log2(x) for x in p)


def test_drift_distance_by_hand():
    assert drift_distance(both([[ONE], [TWO]], [[ONE, TWO]])).distance == pytest.approx(0, abs=1e-6)
    half = (entropy(0.75, 0.25) - 0.5) ** 0.5
    assert drift_distance(both([[ONE]], [[ONE, TWO]])).distance == pytest.approx(half, rel=1e-5)
    d = drift_distance(both([[ONE]], [[TWO]]))  # both permutations are as far apart as the true one
    assert d.distance == pytest.approx(1)
    assert d.p == 1
    assert d["chance mean"] == pytest.approx(1)
    assert d.name == "train and test"


def distance_by_loop(table, labels):
    "The Jensen-Shannon distance, concept by concept."
    counts = [
        Counter(c for cuis, l in zip(table.cuis, labels) if l == side for c in set(cuis)) for side in (False, True)
    ]
    every = set(counts[0]) | set(counts[1])
    p, q = ({c: n[c] / sum(n.values()) for c in every} for n in counts)
    total = 0
    for side in p, q:
        total += sum(side[c] / 2 * math.log2(2 * side[c] / (p[c] + q[c])) for c in every if side[c])
    return total**0.5


def test_drift_distance_against_a_plain_loop():
    rng = np.random.default_rng(1)
    table = both(*[[[f"C{c:07d}" for c in np.unique(rng.integers(0, 9, 3))] for _ in range(n)] for n in (40, 25)])
    truth, rng = (table.split == "test").to_numpy(), np.random.default_rng(7)
    chance = [distance_by_loop(table, rng.permutation(truth)) for _ in range(120)]
    d = drift_distance(table, permutations=120, generator=7)
    want = distance_by_loop(table, truth)
    p = (1 + sum(x >= want - 1e-6 for x in chance)) / 121
    assert d.tolist() == pytest.approx([want, np.mean(chance), np.percentile(chance, 95), p], rel=1e-4)
    assert d.equals(drift_distance(table, permutations=120, generator=np.random.default_rng(7)))


def test_injected_drift_is_found(phantoms):
    data = read_rocov2(phantoms)
    gone = (data.table.split == "test") & data.table.cuis.map(lambda c: "C0024485" in c)
    drift = concept_drift(data.table[~gone], data.names)
    assert drift.cui[0] == "C0024485"
    assert drift.test[0] == 0
    assert drift.p[0] < 1e-6
    assert drift_distance(data.table[~gone]).p < 0.01


def test_splits_that_cannot_be_compared_are_errors():
    table = toy([ONE], [TWO])
    for compare in concept_drift, plot_concept_drift:
        with pytest.raises(ConfigError, match=r"^the table has no images of split 'test': choose one of train\.$"):
            compare(table, NAMES)
    with pytest.raises(ConfigError, match="splits 'train' and 'train' cannot be compared: name two splits"):
        concept_drift(table, NAMES, "train", "train")
    with pytest.raises(ConfigError, match="name two splits that have concepts"):
        drift_distance(both([[ONE]], [[]]))


def test_official_caption_noise(captions):
    noise = caption_noise(captions.table)
    assert {k: [round(noise.loc[k, s] * CAPTIONS[s]) for s in SPLITS] for k in noise.index} == NOISY
    assert noise_examples(captions.table).kind.tolist() == list(NOISE)


# The kinds of noise a second time, by looking around single characters and words, with none of radgen's patterns


def is_word(ch):
    return ch.isalnum() or ch == "_"


def places(low, *parts):
    "Begin and end of each occurrence."
    found = []
    for part in parts:
        i = low.find(part)
        while i >= 0:
            found.append((i, i + len(part)))
            i = low.find(part, i + 1)
    return found


def ends(low, i):
    "Whether no word goes on at i."
    return not is_word(low[i : i + 1] or " ")


def follows_digit(low, i, between=" "):
    "Whether a digit stands before i, with at most one character between."
    if low[:i][-1:].isdecimal():
        return True
    return low[:i][-1:] in set(between) and low[: i - 1][-1:].isdecimal()


def has_arrow(text, low, words):
    parts = ("arrow", "asteris", "asterix", "triangle", "†", "‡", "←", "→", "↑", "↓")
    circles = places(low, "circle", "circles", "circled")
    return (
        any(x in low for x in parts)
        or any(low[max(i - 2, 0) : i] not in ("t1", "t2") for i, _ in places(low, "*"))
        or any(w.lower().endswith(("star", "stars")) for w in words)
        or any(ends(low, j) and not low.startswith(" of willis", j) for _, j in circles)
    )


def starts_panel(text, i):
    "Whether the letter at i opens a panel's part of the caption."
    if text[i] not in "ABCDEFGHabcdefgh" or (i > 0 and text[max(i - 2, 0) : i] not in (". ", "; ", ": ")):
        return False
    marks = [x for x in (")", ".", ":", " )", " .", " :") if text.startswith(x, i + 1)]
    return any(text[i + 1 + len(x) : i + 2 + len(x)].isspace() for x in marks)


def has_panel(text, low, words):
    for content in re.findall(r"\(([^()]*)\)", text):
        letters = re.split(r" and | ?[-–,&/] ?", content)
        if all(len(x) == 1 and x in "ABCDEFGHabcdefgh" for x in letters):
            return True
    named = places(low, "panel ", "panels ", "panel (", "panels (")
    return any(starts_panel(text, i) for i in range(len(text))) or any(
        low[j : j + 1] in set("abcdefgh") and ends(low, j + 1) for _, j in named
    )


NUMBERED = [""]
for part in (
    ("fig", "figs", "figure", "figures", "case", "patient"),
    ("", "."),
    ("", " "),
    ("", "no", "no ", "no.", "no. "),
    ("", "s"),
):
    NUMBERED = [a + b for a in NUMBERED for b in part]
NUMBERED = tuple(NUMBERED)


def has_number(text, low, words):
    return any(ch.isdecimal() and low[max(i - 20, 0) : i].endswith(NUMBERED) for i, ch in enumerate(low))


CREDITS = ("reproduced", "reprinted", "courtesy", "permission", "copyright", "doi:", "adapted from")
CREDITS += ("modified from", "taken from", "http://", "https://", "©")


def has_reference(text, low, words):
    for content in re.findall(r"\[([^][]*)\]", text):
        if all(x.isdecimal() and len(x) <= 3 for x in re.split(r"[-–, ]{1,2}", content)):
            return True
    return any(x in low for x in CREDITS) or any(ends(low, j) for _, j in places(low, " et al"))


DASHES = ("", *" -‐‑–")
UNITS = [""]
for part in DASHES, ("year", "yr", "month", "mo", "week", "wk", "day"), ("", "s"), DASHES:
    UNITS = [a + b for a in UNITS for b in part]


def has_age(text, low, words):
    for i, j in places(low, "old", "of age"):
        if ends(low, j) and any(low[:i].endswith(u) and low[: i - len(u)][-1:].isdecimal() for u in UNITS):
            return True
    for i, j in places(low, "yo", "y/o"):
        if ends(low, j) and follows_digit(low, i, " -‐‑–"):
            return True
    aged = [f"age{s}{colon} {of}" for s in ("", "s", "d") for colon in ("", ":") for of in ("", "of ")]
    return any(low[j : j + 1].isdecimal() and not is_word(low[:i][-1:] or " ") for i, j in places(low, *aged))


def has_abbreviation(text, low, words):
    for w in words:
        for v in {w, w.removesuffix("s")}:
            roman = v == w and set(v) <= set("IVX")
            if 2 <= len(v) <= 5 and v.isascii() and v.isalpha() and v.isupper() and not roman:
                return True
    return False


def has_measure(text, low, words):
    for i, j in places(low, "mm", "cm", "ml", "hu", "gy"):
        power = low[j : j + 1] in set("23²³")
        if follows_digit(low, i) and (ends(low, j) or (power and ends(low, j + 1))):
            return True
    return "scale bar" in low


def test_official_caption_noise_by_a_plain_loop(captions):
    known = set(captions.table.id)
    tests = dict(zip(NOISY, (has_arrow, has_panel, has_number, has_reference, has_age, has_abbreviation, has_measure)))
    for column, split in enumerate(SPLITS):
        counts = Counter()
        for row in lines(f"{split}_captions.csv"):
            if row["ID"] in known:
                text = row["Caption"]
                words = "".join(ch if is_word(ch) else " " for ch in text).split()
                found = [kind for kind, has in tests.items() if has(text, text.lower(), words)]
                counts.update([*found, *(["any"] if found else [])])
        assert counts == {kind: n[column] for kind, n in NOISY.items()}, split


def test_official_drift(concepts):
    drift = concept_drift(concepts.table, concepts.names)
    assert len(drift) == 1948
    assert (drift.p < 0.05).sum() == 11
    assert drift.name.head(3).tolist() == ["angiogram", "COVID19 (disease)", "Bone structure of cranium"]
    by = drift.set_index("cui")
    images = {"C0002978": (3958, 420), "C5203670": (141, 63), "C0041618": (8306, 1596), "C0037303": (3326, 391)}
    for c, (train, test) in images.items():
        assert by.loc[c, ["train", "test"]].tolist() == pytest.approx([train / 59962, test / 9927]), c
    assert by.difference.abs().max() < 0.024
    assert (concept_drift(concepts.table, concepts.names, "valid", "test").p == 1).all()


def test_official_drift_distances(concepts):
    "Train and test are farther apart than chance, valid and test closer than any random permutation."
    assert drift_distance(concepts.table).round(3).tolist() == [0.145, 0.119, 0.122, 0.005]
    assert drift_distance(concepts.table, "valid", "test").round(3).tolist() == [0.144, 0.152, 0.155, 1]


def test_official_drift_by_the_csv_module_alone(concepts):
    "The distance of train and test from the files, without radgen, numpy or scipy."
    n = [Counter(c for r in lines(f"{s}_concepts.csv") for c in set(r["CUIs"].split(";"))) for s in ("train", "test")]
    images = [[k[c] for k in n] for c in ("C0002978", "C5203670", "C0041618", "C0037303")]
    assert images == [[3958, 420], [141, 63], [8306, 1596], [3326, 391]]
    p, q = ({c: k[c] / sum(k.values()) for c in {*n[0], *n[1]}} for k in n)
    total = sum(side[c] / 2 * math.log2(2 * side[c] / (p[c] + q[c])) for side in (p, q) for c in side if side[c])
    assert round(total**0.5, 3) == 0.145
    assert drift_distance(concepts.table, permutations=1).distance == pytest.approx(total**0.5, rel=1e-4)


@pytest.fixture
def quiet():
    "Draws a figure; a warning is an error."

    def draw(fig):
        fig.canvas.draw()
        return fig

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield draw
    plt.close("all")


def test_figures(phantoms, quiet):
    data = read_rocov2(phantoms)
    fig = quiet(plot_caption_noise(data.table))
    assert sum(len(c) for c in fig.axes[0].containers) == 3 * (len(NOISE) + 1)
    fig = quiet(plot_concept_drift(data.table, data.names))
    assert len(fig.axes) == 1
    assert len(fig.axes[0].texts) == (concept_drift(data.table, data.names).p < 0.05).sum()
    tiny = both([[ONE]], [[TWO, "C0040405"]]).assign(caption="normal")
    quiet(plot_caption_noise(tiny))
    quiet(plot_concept_drift(tiny, NAMES))


def test_labels_of_the_drift_figure_do_not_overlap(concepts, quiet):
    fig = quiet(plot_concept_drift(concepts.table, concepts.names))
    boxes = [Text.get_window_extent(t) for t in fig.axes[0].texts]
    assert len(boxes) == 11
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])
        assert fig.bbox.x1 >= a.x1
        assert fig.bbox.y0 <= a.y0
