"Exploration: each function on tables small enough to work out by hand, and the official ROCOv2 numbers, derived a second time without radgen."

import csv, math, re, time, warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from conftest import OFFICIAL
from radgen.core.errors import ConfigError
from radgen.data.tables import read_rocov2
from radgen.data.drift import NOISE, caption_noise, concept_drift, drift_distance, noise_examples, plot_caption_noise, plot_concept_drift
from radgen.data.explore import count_cuis, modality_by_region, percentiles, plot_caption_lengths, plot_concept_counts, plot_modality_by_region, plot_samples, plot_splits, plot_top_concepts, splits_table
from radgen.data.tables import CURATED

SPLITS = ("train", "valid", "test")
IMAGES = {"train": 59962, "valid": 9904, "test": 9927}
CAPTIONS = {"train": 13476, "valid": 9903, "test": 9927}
TOP = [
    ("C0040405", 20495),
    ("C1306645", 16604),
    ("C0024485", 9796),
    ("C0041618", 8306),
    ("C0817096", 7508),
    ("C1999039", 7111),
    ("C0002978", 3958),
    ("C1996865", 3393),
    ("C0037303", 3326),
    ("C0000726", 3176),
    ("C0030797", 2676),
    ("C0023216", 2336),
    ("C0205129", 2177),
    ("C0027651", 1392),
    ("C0037949", 1288),
    ("C0444611", 1264),
    ("C0205207", 1152),
    ("C1140618", 1119),
    ("C0023884", 986),
    ("C0018787", 906),
]
PERCENTILES = [10.0, 19.0, 44.0, 871.66]  # the paper prints 11, 19, 44, 874
#                           Chest Abd. Skull Pelvis Lower Upper Spine Neck Breast H&N Head none
REGIONS = {
    "Computed tomography": [1762, 1197, 51, 869, 8, 0, 38, 253, 21, 31, 201, 16407],
    "X-ray": [5550, 1798, 3230, 1432, 2304, 1119, 1123, 162, 57, 18, 3, 301],
    "Magnetic resonance imaging": [74, 113, 28, 232, 6, 0, 98, 67, 9, 19, 526, 8679],
    "Ultrasonography": [83, 60, 14, 99, 12, 0, 23, 69, 41, 2, 7, 7909],
    "Angiogram": [25, 1, 1, 15, 5, 0, 2, 24, 1, 3, 10, 3872],
    "Positron emission tomography": [8, 4, 2, 20, 1, 0, 4, 11, 2, 2, 6, 459],
    "no type": [8, 4, 0, 9, 0, 0, 0, 4, 0, 0, 3, 287],
}
NOISY = {
    "arrow or mark": [1987, 3194, 3231],
    "panel letter": [85, 153, 162],
    "figure or case number": [555, 235, 253],
    "reference or credit": [41, 45, 41],  # captions: train, valid, test
    "patient's age": [337, 441, 435],
    "abbreviation": [5356, 4834, 4728],
    "measurement or scale bar": [428, 585, 567],
    "any": [7011, 6703, 6666],
}
NAMES = {"C0000001": "CT", "C0000002": "Chest", "C0000003": "Cyst"}
ONE, TWO, THREE = NAMES


def toy(*cuis, split="train"):
    return pd.DataFrame(
        {"id": [str(i) for i in range(len(cuis))], "caption": "CT", "cuis": list(cuis), "image": "", "split": split}
    )


def both(a, b):
    return pd.concat([toy(*a), toy(*b, split="test")], ignore_index=True)


@pytest.fixture(scope="module")
def concepts(official_text):
    return read_rocov2(official_text, images=False, captions=False)


@pytest.fixture(scope="module")
def captions(official_text):
    return read_rocov2(official_text, images=False)


def lines(name):
    return list(csv.DictReader(open(OFFICIAL / name, newline="", encoding="utf-8")))


# By hand


def test_counts_are_images_and_ties_go_by_cui():
    counts = count_cuis(toy([THREE, THREE], [ONE], [TWO, "C0000009"], [TWO], []), NAMES)
    assert counts.values.tolist() == [[TWO, "Chest", 2], [ONE, "CT", 1], [THREE, "Cyst", 1], ["C0000009", "", 1]]
    assert count_cuis(toy([ONE], split="test"), NAMES).empty
    assert count_cuis(both([[ONE]], [[TWO], [TWO]]), NAMES, "test").values.tolist() == [[TWO, "Chest", 2]]


def test_percentiles_leave_unnamed_concepts_out():
    counts = pd.DataFrame(
        {"cui": list("abcdef"), "name": ["A", "B", "C", "D", "E", ""], "count": [50, 40, 30, 20, 10, 999]}
    )
    assert percentiles(counts).tolist() == [20, 30, 40, 49.6]
    assert percentiles(counts, (0, 100)).to_dict() == {"0%": 10, "100%": 50}
    with pytest.raises(ConfigError, match="no concept with a name was counted: check"):
        percentiles(counts[counts.name == ""])
    with pytest.raises(ConfigError):
        percentiles(count_cuis(toy([ONE], split="test"), NAMES))


def test_splits_table():
    table = pd.DataFrame(
        {
            "split": ["test", "train", "train", "train"],
            "cuis": [[ONE], [ONE, ONE], [ONE, TWO], [ONE, TWO, THREE]],
            "caption": ["", "a b", "word " * 48, "word\n" * 49],
        }
    )
    t = splits_table(table)
    assert t.index.tolist() == ["train", "test"] and t.images.tolist() == [3, 1]
    assert t.loc["train"].tolist() == pytest.approx([3, 2, 2, 2.9, 48, 48.9, 1 / 3])
    assert (
        t.loc["test", "concepts mean"] == 1
        and t.loc["test", ["words median", "words 95%", "above 48 words"]].isna().all()
    )


def test_modality_by_region():
    n = modality_by_region(
        toy(
            ["C0040405"],
            ["C0040405", "C0817096", "C0000726"],
            ["C0040405", "C0024485", "C0006104"],
            ["C0041618", "C0013516"],
            ["C0817096"],
            [ONE],
            [],
        )
    )
    assert n.shape == (7, 12) and n.index[-1] == "no type" and n.columns[-1] == "no region"
    assert {(t, r): int(n.loc[t, r]) for t in n.index for r in n.columns if n.loc[t, r]} == {
        ("Computed tomography", "no region"): 1,
        ("Computed tomography", "Chest"): 1,
        ("Computed tomography", "Abdomen"): 1,
        ("Computed tomography", "Head"): 1,
        ("Magnetic resonance imaging", "Head"): 1,
        ("Ultrasonography", "no region"): 1,
        ("no type", "Chest"): 1,
        ("no type", "no region"): 2,
    }  # two CUIs of ultrasound are one type
    assert modality_by_region(both([[ONE]], [["C0002978"]]), "test").loc["Angiogram", "no region"] == 1


def test_cuis_are_well_formed():
    assert {f for f, _ in CURATED.values()} == {"image_type", "view", "region"} and all(
        re.fullmatch(r"C\d{7}", c) for c in CURATED
    )


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
    assert n.columns.tolist() == list(SPLITS) and n.index.tolist() == [*NOISE, "any"]
    assert n.train.to_dict() == pytest.approx(
        {
            "arrow or mark": 1 / 3,
            "panel letter": 0,
            "figure or case number": 1 / 3,
            "reference or credit": 0,
            "patient's age": 1 / 3,
            "abbreviation": 1 / 3,
            "measurement or scale bar": 0,
            "any": 2 / 3,
        }
    )
    assert n.valid.isna().all()  # no caption, no share
    assert n.test[n.test > 0].index.tolist() == [
        "panel letter",
        "reference or credit",
        "measurement or scale bar",
        "any",
    ]
    with pytest.raises(ConfigError, match="the table has no captions: read"):
        caption_noise(table[table.caption.str.strip() == ""])


def test_noise_does_not_depend_on_case_where_it_should_not():
    for kind, text in [
        ("arrow or mark", "ARROW"),
        ("figure or case number", "FIG. 2"),
        ("reference or credit", "COURTESY OF"),
        ("patient's age", "3 YEARS OLD"),
        ("measurement or scale bar", "3 CM"),
    ]:
        assert (
            caption_noise(toy([ONE]).assign(caption=text)).loc[kind, "train"] == 1
            and kind in noise_examples(toy([ONE]).assign(caption=text)).kind.tolist()
        )
    assert all(
        p.pattern == p.pattern.lower() for p in NOISE.values() if p.flags & re.I
    )  # they are searched in lower case


def test_noise_examples():
    table = toy(*[[ONE]] * 3).assign(
        caption=["mass (arrow)", "two arrows\nand *", "x" * 100_000 + " arrowhead " + "y" * 100_000]
    )
    assert noise_examples(table, around=4).values.tolist() == [["arrow or mark", "arrow", "…ss (arrow)"]]
    three = noise_examples(table, n=5)
    assert (
        three.caption.tolist()[:2] == ["mass (arrow)", "two arrows and *"]
        and len(three) == 3
        and len(three.caption[2]) < 200
    )
    assert noise_examples(toy([ONE]).assign(caption="a mass")).empty


@pytest.mark.parametrize("kind", NOISE)
def test_hostile_captions_take_linear_time(kind):
    pieces = [
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
    pattern = NOISE[kind]
    for piece in pieces:
        seconds = []
        for size in (100_000, 400_000):
            text = (piece * size)[:size]
            start = time.perf_counter()
            pattern.search(text), re.search(pattern.pattern, text.lower())
            seconds.append(time.perf_counter() - start)
        assert seconds[1] < max(12 * seconds[0], 1.0), (
            piece,
            seconds,
        )  # quadratic would be 16 times, and far more than a second


def test_concept_drift_by_hand():
    drift = concept_drift(
        both([[TWO, ONE], [TWO], [TWO, TWO], [TWO]], [[TWO], [ONE, TWO], [ONE, TWO], [TWO, ONE]]), NAMES
    )
    assert drift.columns.tolist() == ["cui", "name", "train", "test", "difference", "z", "p"]
    assert drift.iloc[0].tolist() == [
        "C0000001",
        "CT",
        0.25,
        0.75,
        0.5,
        pytest.approx(2**0.5),
        pytest.approx(4 * 17 / 70),
    ]
    assert drift.iloc[1].tolist() == ["C0000002", "Chest", 1, 1, 0, 0, 1]


def test_concept_drift_against_other_routes():
    rng = np.random.default_rng(0)
    table = both(
        *[
            [[f"C{c:07d}" for c in np.unique(rng.geometric(p, 3))] for _ in range(n)]
            for n, p in ((300, 0.2), (120, 0.3))
        ]
    )
    drift = concept_drift(table, {}).set_index("cui")
    has = {s: Counter(c for cuis in table[table.split == s].cuis for c in set(cuis)) for s in ("train", "test")}
    assert set(drift.index) == set(has["train"]) | set(has["test"])
    p = {}
    for c in drift.index:
        ka, kb = has["train"][c], has["test"][c]
        assert drift.loc[c, ["train", "test"]].tolist() == [ka / 300, kb / 120]
        lower, upper = (
            stats.fisher_exact([[kb, 120 - kb], [ka, 300 - ka]], "less").pvalue,
            stats.fisher_exact([[kb, 120 - kb], [ka, 300 - ka]], "greater").pvalue,
        )
        p[c] = min(1, 2 * min(lower, upper))
        chi2 = stats.chi2_contingency([[kb, 120 - kb], [ka, 300 - ka]], correction=False).statistic  # z squared
        assert drift.z[c] ** 2 == pytest.approx(chi2) and np.sign(drift.z[c]) == np.sign(kb / 120 - ka / 300)
    worst = 0
    for i, c in enumerate(sorted(p, key=p.get)):  # Holm, one by one
        worst = max(worst, min(1, (len(p) - i) * p[c]))
        assert drift.p[c] == pytest.approx(worst)
    assert drift.z.abs().is_monotonic_decreasing or drift.z.abs().diff().max() < 1e-8


def test_far_tails_are_exact():
    "A p value of 1e-60 by a sum of logarithms of binomials: nothing is lost to 1 - cdf."
    drift = concept_drift(both([[ONE]] * 100 + [[TWO]] * 200, [[TWO]] * 300), NAMES).set_index("cui")
    comb = lambda n, k: math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    want = 4 * math.exp(comb(300, 100) - comb(600, 100))  # none of 100 in test, both tails, two concepts
    assert (
        drift.p["C0000001"] == pytest.approx(want, rel=1e-6)
        and drift.p["C0000002"] == pytest.approx(want, rel=1e-6)
        and want < 1e-30
    )


def test_drift_distance_by_hand():
    assert drift_distance(both([[ONE]], [[TWO]])).distance == pytest.approx(1)
    assert drift_distance(both([[ONE], [TWO]], [[ONE, TWO]])).distance == pytest.approx(0, abs=1e-6)
    h = lambda *p: -sum(x * math.log2(x) for x in p)
    assert drift_distance(both([[ONE]], [[ONE, TWO]])).distance == pytest.approx((h(0.75, 0.25) - 0.5) ** 0.5, rel=1e-5)
    d = drift_distance(both([[ONE]], [[TWO]]))  # both deals are as far apart as the true one
    assert d.p == 1 and d["chance mean"] == pytest.approx(1) and d.name == "train and test"


def test_drift_distance_against_a_plain_loop():
    rng = np.random.default_rng(1)
    table = both(*[[[f"C{c:07d}" for c in np.unique(rng.integers(0, 9, 3))] for _ in range(n)] for n in (40, 25)])

    def distance(labels):
        P = [
            Counter(c for cuis, l in zip(table.cuis, labels) if l == side for c in set(cuis)) for side in (False, True)
        ]
        P = [{c: p[c] / sum(p.values()) for c in set(P[0]) | set(P[1])} for p in P]
        return sum(p[c] / 2 * math.log2(p[c] / ((P[0][c] + P[1][c]) / 2)) for p in P for c in p if p[c]) ** 0.5

    truth, rng = (table.split == "test").to_numpy(), np.random.default_rng(7)
    deals = [distance(rng.permutation(truth)) for _ in range(120)]
    d = drift_distance(table, permutations=120, generator=7)
    assert d.tolist() == pytest.approx(
        [
            distance(truth),
            np.mean(deals),
            np.percentile(deals, 95),
            (1 + sum(x >= distance(truth) - 1e-6 for x in deals)) / 121,
        ],
        rel=1e-4,
    )
    assert d.equals(
        drift_distance(table, permutations=120, generator=np.random.default_rng(7))
    )  # a seed or a generator


def test_a_planted_drift_is_found(phantoms):
    data = read_rocov2(phantoms)
    gone = (data.table.split == "test") & data.table.cuis.map(lambda c: "C0024485" in c)
    drift = concept_drift(data.table[~gone], data.names)
    assert (
        drift.cui[0] == "C0024485"
        and drift.test[0] == 0
        and drift.p[0] < 1e-6
        and drift_distance(data.table[~gone]).p < 0.01
    )


def test_empty_and_lone_splits_are_refused_in_one_sentence():
    table = toy([ONE], [TWO])
    for f in (
        lambda: concept_drift(table, NAMES),
        lambda: drift_distance(table),
        lambda: plot_concept_drift(table, NAMES),
        lambda: modality_by_region(table, "test"),
        lambda: plot_top_concepts(table, NAMES, split="test"),
    ):
        with pytest.raises(ConfigError, match=r"^the table has no images of split 'test': choose one of train\.$"):
            f()
    with pytest.raises(ConfigError, match="split 'train' cannot be compared with itself: name two splits"):
        concept_drift(table, NAMES, "train", "train")
    with pytest.raises(ConfigError, match="one of them has no concepts"):
        drift_distance(both([[ONE]], [[]]))
    empty = table[:0]
    for f in (
        splits_table,
        caption_noise,
        modality_by_region,
        drift_distance,
        plot_splits,
        plot_concept_counts,
        plot_caption_lengths,
        plot_samples,
        plot_modality_by_region,
        plot_caption_noise,
        lambda t: concept_drift(t, NAMES),
        lambda t: plot_top_concepts(t, NAMES),
        lambda t: plot_concept_drift(t, NAMES),
    ):
        with pytest.raises(ConfigError, match=r"^the table has no rows: read a folder that has images first\.$"):
            f(empty)


def test_one_split_is_enough_for_the_rest():
    table = toy([ONE], [TWO, ONE])
    assert splits_table(table).images.tolist() == [2] and caption_noise(table).columns.tolist() == ["train"]


# The official release


def test_official_numbers(concepts, capsys):
    start = time.perf_counter()
    counts, n = count_cuis(concepts.table, concepts.names), splits_table(concepts.table)
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\nthe twenty most frequent concepts of the official train split (counted in {seconds:.2f} s):")
        for r in counts.head(20).itertuples():
            print(f"  {r.cui} {r.count:>6,} {r.name}")
    assert n.images.to_dict() == IMAGES
    assert n.round(2)[["concepts mean", "concepts median", "concepts 95%"]].values.tolist() == [
        [3.35, 3, 6],
        [3.38, 3, 6],
        [3.41, 3, 7],
    ]
    assert list(zip(counts.cui, counts["count"]))[:20] == TOP
    assert len(counts) == 1948 and (counts.name == "").sum() == 13
    assert percentiles(counts).round(2).tolist() == PERCENTILES
    assert percentiles(counts.assign(name="x")).round().tolist() == [10, 19, 45, 866]  # with the unnamed ones
    assert percentiles(counts[counts["count"] > 1]).round().tolist() == [11, 19, 44, 880]  # without those seen once
    assert percentiles(count_cuis(concepts.table.assign(split="train"), concepts.names)).round().tolist() == [
        14,
        25,
        59,
        1190,
    ]


def test_official_numbers_by_the_csv_module_alone(concepts):
    "The same numbers without pandas and without radgen: how the literals above were derived."
    rows = {s: {r["ID"]: r["CUIs"].split(";") for r in lines(f"{s}_concepts.csv")} for s in SPLITS}
    named = {r["CUI"] for r in lines("cui_mapping.csv")}
    assert {s: len(r) for s, r in rows.items()} == IMAGES
    n = Counter(c for cuis in rows["train"].values() for c in set(cuis))
    assert n.most_common(20) == TOP
    tail = sorted(v for c, v in n.items() if c in named)

    def percentile(q):  # between the two neighbours, linearly
        i, f = divmod(q * (len(tail) - 1), 100)
        return tail[i] + (tail[i + 1] - tail[i]) * f / 100

    assert [round(percentile(q), 2) for q in (25, 50, 75, 99)] == PERCENTILES


def test_official_modality_by_region(concepts):
    assert modality_by_region(concepts.table).T.to_dict("list") == REGIONS


def test_official_modality_by_region_by_a_plain_loop(concepts):
    types = {
        "C0040405": "Computed tomography",
        "C1306645": "X-ray",
        "C0024485": "Magnetic resonance imaging",
        "C0041618": "Ultrasonography",
        "C0013516": "Ultrasonography",
        "C0002978": "Angiogram",
        "C0032743": "Positron emission tomography",
    }
    regions = [
        "C0817096",
        "C0000726",
        "C0037303",
        "C0030797",
        "C0023216",
        "C1140618",
        "C0037949",
        "C0027530",
        "C0006141",
        "C0460004",
        "C0006104",
    ]
    n = {t: [0] * 12 for t in REGIONS}
    for r in lines("train_concepts.csv"):
        where = [i for i, c in enumerate(regions) if c in r["CUIs"]]
        for t in {types[c] for c in types if c in r["CUIs"]} or {"no type"}:
            for i in where or [11]:
                n[t][i] += 1
    assert n == REGIONS


def test_official_captions(captions):
    n = splits_table(captions.table)
    assert n.images.to_dict() == CAPTIONS
    assert n[["words median", "words 95%"]].values.tolist() == [[10, 28], [17, 52], [18, 53]]
    assert n["above 48 words"].round(3).tolist() == [0.007, 0.061, 0.065] and n["concepts mean"].round(2).tolist() == [
        1.85,
        3.38,
        3.41,
    ]
    start = time.perf_counter()
    noise = caption_noise(captions.table)
    assert time.perf_counter() - start < 10  # a second on an idle core
    assert {k: [round(noise.loc[k, s] * CAPTIONS[s]) for s in SPLITS] for k in noise.index} == NOISY
    assert noise_examples(captions.table).kind.tolist() == list(NOISE)


def test_official_caption_noise_by_a_plain_loop(captions):
    "The same counts by looking around single characters and words, with none of radgen's patterns."
    known = set(captions.table.id)
    for i, split in enumerate(SPLITS):
        found = [kinds(r["Caption"]) for r in lines(f"{split}_captions.csv") if r["ID"] in known]
        assert {k: sum(k in f for f in found) for k in NOISE} | {"any": sum(map(bool, found))} == {
            k: n[i] for k, n in NOISY.items()
        }


word = lambda ch: ch.isalnum() or ch == "_"
UNITS = [
    f"{d}{u}{s}{e}"
    for d in ("", *" -‐‑–")
    for u in ("year", "yr", "month", "mo", "week", "wk", "day")
    for s in ("", "s")
    for e in ("", *" -‐‑–")
]
NUMBERED = tuple(
    a + b + c + d + e
    for a in ("fig", "figs", "figure", "figures", "case", "patient")
    for b in ("", ".")
    for c in ("", " ")
    for d in ("", "no", "no ", "no.", "no. ")
    for e in ("", "s")
)


def kinds(text):
    "The kinds of noise in a caption, the slow way."
    low, out = text.lower(), set()
    words = "".join(ch if word(ch) else " " for ch in text).split()
    ends = lambda i: not word(low[i : i + 1] or " ")
    at = lambda *subs: (
        (i, i + len(x)) for x in subs for i in range(len(low)) if low.startswith(x, i)
    )  # begin and end of each occurrence
    if any(x in low for x in ("arrow", "asteris", "asterix", "triangle", "†", "‡", "←", "→", "↑", "↓")) or any(
        low[max(i - 2, 0) : i] not in ("t1", "t2") for i, _ in at("*")
    ):
        out.add("arrow or mark")
    if any(w.lower().endswith(("star", "stars")) for w in words) or any(
        ends(j) and not low.startswith(" of willis", j) for _, j in at("circle", "circles", "circled")
    ):
        out.add("arrow or mark")
    for content in re.findall(r"\(([^()]*)\)", text):
        if all(len(x) == 1 and x in "ABCDEFGHabcdefgh" for x in re.split(r" and | ?[-–,&/] ?", content)):
            out.add("panel letter")
    for i, ch in enumerate(text):
        if (
            ch in "ABCDEFGHabcdefgh"
            and (i == 0 or text[max(i - 2, 0) : i] in (". ", "; ", ": "))
            and any(
                text.startswith(x, i + 1) and text[i + 1 + len(x) : i + 2 + len(x)].isspace()
                for x in (")", ".", ":", " )", " .", " :")
            )
        ):
            out.add("panel letter")
    if any(
        low[j : j + 1] in set("abcdefgh") and ends(j + 1) for _, j in at("panel ", "panels ", "panel (", "panels (")
    ):
        out.add("panel letter")
    if any(ch.isdecimal() and low[:i].endswith(NUMBERED) for i, ch in enumerate(low)):
        out.add("figure or case number")
    for content in re.findall(r"\[([^][]*)\]", text):
        if all(x.isdecimal() and len(x) <= 3 for x in re.split(r"[-–, ]{1,2}", content)):
            out.add("reference or credit")
    if any(
        x in low
        for x in (
            "reproduced",
            "reprinted",
            "courtesy",
            "permission",
            "copyright",
            "doi:",
            "adapted from",
            "modified from",
            "taken from",
            "http://",
            "https://",
            "©",
        )
    ) or any(ends(j) for _, j in at(" et al")):
        out.add("reference or credit")
    for i, j in at("old", "of age"):
        if ends(j) and any(low[:i].endswith(u) and low[: i - len(u)][-1:].isdecimal() for u in UNITS):
            out.add("patient's age")
    for i, j in at("yo", "y/o"):
        if ends(j) and (low[:i][-1:].isdecimal() or low[:i][-1:] in set(" -‐‑–") and low[: i - 1][-1:].isdecimal()):
            out.add("patient's age")
    for i, j in at(*(f"age{s}{c} {o}" for s in ("", "s", "d") for c in ("", ":") for o in ("", "of "))):
        if low[j : j + 1].isdecimal() and not word(low[:i][-1:] or " "):
            out.add("patient's age")
    if any(
        2 <= len(v) <= 5 and v.isascii() and v.isalpha() and v.isupper() and not (v == w and set(v) <= set("IVX"))
        for w in words
        for v in {w, w.removesuffix("s")}
    ):
        out.add("abbreviation")
    if "scale bar" in low or any(
        ends(j + k) and (low[:i][-1:].isdecimal() or low[:i][-1:] == " " and low[: i - 1][-1:].isdecimal())
        for i, j in at("mm", "cm", "ml", "hu", "gy")
        for k in {0, low[j : j + 1] in set("23²³")}
    ):
        out.add("measurement or scale bar")
    return out


def test_official_drift(concepts, capsys):
    start = time.perf_counter()
    drift = concept_drift(concepts.table, concepts.names)
    d = drift_distance(concepts.table)
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\ndrift of {len(drift):,} concepts between train and test in {seconds:.1f} s: {d.round(4).to_dict()}")
    assert len(drift) == 1948 and (drift.p < 0.05).sum() == 11
    assert drift.name.head(3).tolist() == ["angiogram", "COVID19 (disease)", "Bone structure of cranium"]
    by = drift.set_index("cui")
    assert by.loc["C0002978", ["train", "test"]].tolist() == pytest.approx([3958 / 59962, 420 / 9927]) and by.loc[
        "C5203670", ["train", "test"]
    ].tolist() == pytest.approx([141 / 59962, 63 / 9927])
    assert by.loc["C0041618", ["train", "test"]].tolist() == pytest.approx([8306 / 59962, 1596 / 9927]) and by.loc[
        "C0037303", ["train", "test"]
    ].tolist() == pytest.approx([3326 / 59962, 391 / 9927])
    assert by.difference.abs().max() < 0.024
    assert d.round(3).tolist() == [0.145, 0.119, 0.122, 0.005]
    even = drift_distance(concepts.table, "valid", "test")  # closer than any random deal: dealt out evenly
    assert (
        even.round(3).tolist() == [0.144, 0.152, 0.155, 1]
        and (concept_drift(concepts.table, concepts.names, "valid", "test").p == 1).all()
    )


def test_official_drift_by_the_csv_module_alone(concepts):
    "The distance of train and test from the files, without radgen, numpy or scipy."
    n = [Counter(c for r in lines(f"{s}_concepts.csv") for c in set(r["CUIs"].split(";"))) for s in ("train", "test")]
    assert [[k[c] for k in n] for c in ("C0002978", "C5203670", "C0041618", "C0037303")] == [
        [3958, 420],
        [141, 63],
        [8306, 1596],
        [3326, 391],
    ]
    p = [{c: k[c] / sum(k.values()) for c in {*n[0], *n[1]}} for k in n]
    d = sum(q[c] / 2 * math.log2(2 * q[c] / (p[0][c] + p[1][c])) for q in p for c in q if q[c]) ** 0.5
    assert (
        drift_distance(concepts.table, permutations=1).distance == pytest.approx(d, rel=1e-4) and round(d, 3) == 0.145
    )


# Figures


@pytest.fixture
def quiet():
    import matplotlib.pyplot as plt

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield lambda fig: (fig.canvas.draw(), fig)[1]
    plt.close("all")


def bars(fig):
    return sum(len(c) for c in fig.axes[0].containers)


def test_figures(phantoms, quiet):
    data = read_rocov2(phantoms)
    assert bars(quiet(plot_splits(data.table))) == 3
    assert len(quiet(plot_concept_counts(data.table)).axes) == 1
    assert len(quiet(plot_caption_lengths(data.table)).axes) == 1
    assert (
        bars(quiet(plot_top_concepts(data.table, data.names))) == 50
        and bars(quiet(plot_top_concepts(data.table, data.names, n=7, split="valid"))) == 7
    )
    assert len(quiet(plot_samples(data.table, n=5, ncol=4)).axes) == 8
    fig = quiet(plot_modality_by_region(data.table))
    assert len(fig.axes) == 2 and len(fig.axes[0].texts) == (modality_by_region(data.table) > 0).to_numpy().sum()
    assert bars(quiet(plot_caption_noise(data.table))) == 3 * (len(NOISE) + 1)
    fig = quiet(plot_concept_drift(data.table, data.names))
    assert len(fig.axes) == 1 and len(fig.axes[0].texts) == (concept_drift(data.table, data.names).p < 0.05).sum()


def test_figures_of_tiny_tables(quiet):
    table = both([[ONE]], [[TWO, "C0040405"]]).assign(caption="normal")
    for f in (
        plot_splits,
        plot_concept_counts,
        plot_caption_lengths,
        plot_samples,
        plot_modality_by_region,
        plot_caption_noise,
        lambda t: plot_top_concepts(t, NAMES),
        lambda t: plot_concept_drift(t, NAMES),
    ):
        quiet(f(table))


def test_labels_of_the_drift_figure_do_not_overlap(concepts, quiet):
    fig = quiet(plot_concept_drift(concepts.table, concepts.names))
    from matplotlib.text import Text

    boxes = [Text.get_window_extent(t) for t in fig.axes[0].texts]
    assert len(boxes) == 11 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert all(fig.bbox.x1 >= b.x1 and fig.bbox.y0 <= b.y0 for b in boxes)
