"Exploration: each function on tables worked out by hand, and the official ROCOv2 numbers derived without radgen."

import warnings
from collections import Counter

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from concept_tables import CAPTIONS, NAMES, ONE, SPLITS, THREE, TWO, both, lines, toy
from radgen.core.errors import ConfigError
from radgen.data.explore import (
    count_cuis,
    modality_by_region,
    percentiles,
    plot_caption_lengths,
    plot_concept_counts,
    plot_modality_by_region,
    plot_samples,
    plot_splits,
    plot_top_concepts,
    splits_table,
)
from radgen.data.rocov2 import read_rocov2


IMAGES = {"train": 59962, "valid": 9904, "test": 9927}
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
    assert percentiles(counts[counts.name == ""]).isna().all()


def test_splits_table():
    table = pd.DataFrame(
        {
            "split": ["test", "train", "train", "train"],
            "cuis": [[ONE], [ONE, ONE], [ONE, TWO], [ONE, TWO, THREE]],
            "caption": ["", "a b", "word " * 48, "word\n" * 49],
        }
    )
    t = splits_table(table)
    assert t.index.tolist() == ["train", "test"]
    assert t.images.tolist() == [3, 1]
    assert t.loc["train"].tolist() == pytest.approx([3, 2, 2, 2.9, 48, 48.9, 1 / 3])
    assert t.loc["test", "concepts mean"] == 1
    assert t.loc["test", ["words median", "words 95%", "above 48 words"]].isna().all()


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
    assert n.shape == (7, 12)
    assert n.index[-1] == "no type"
    assert n.columns[-1] == "no region"
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


def test_split_that_is_absent_is_an_error():
    table = toy([ONE], [TWO])
    message = r"^the table has no images of split 'test': choose one of train\.$"
    with pytest.raises(ConfigError, match=message):
        modality_by_region(table, "test")
    with pytest.raises(ConfigError, match=message):
        plot_top_concepts(table, NAMES, split="test")


def test_official_counts(concepts):
    counts, n = count_cuis(concepts.table, concepts.names), splits_table(concepts.table)
    assert n.images.to_dict() == IMAGES
    assert n["concepts mean"].round(2).tolist() == [3.35, 3.38, 3.41]
    assert n["concepts median"].tolist() == [3, 3, 3]
    assert n["concepts 95%"].tolist() == [6, 6, 7]
    assert list(zip(counts.cui, counts["count"]))[:20] == TOP
    assert len(counts) == 1948
    assert (counts.name == "").sum() == 13
    assert percentiles(counts).round(2).tolist() == PERCENTILES
    every_split = count_cuis(concepts.table.assign(split="train"), concepts.names)
    variants = {  # readings of the paper's Table II that give other numbers
        "with unnamed concepts": (counts.assign(name="x"), [10, 19, 45, 866]),
        "without those seen once": (counts[counts["count"] > 1], [11, 19, 44, 880]),
        "all splits": (every_split, [14, 25, 59, 1190]),
    }
    for name, (variant, want) in variants.items():
        assert percentiles(variant).round().tolist() == want, name


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
    assert n["above 48 words"].round(3).tolist() == [0.007, 0.061, 0.065]
    assert n["concepts mean"].round(2).tolist() == [1.85, 3.38, 3.41]


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


def bars(fig):
    return sum(len(c) for c in fig.axes[0].containers)


def test_figures(phantoms, quiet):
    data = read_rocov2(phantoms)
    assert bars(quiet(plot_splits(data.table))) == 3
    assert len(quiet(plot_concept_counts(data.table)).axes) == 1
    assert len(quiet(plot_caption_lengths(data.table)).axes) == 1
    assert bars(quiet(plot_top_concepts(data.table, data.names, n=7, split="valid"))) == 7
    assert len(quiet(plot_samples(data.table, n=5, ncol=4)).axes[0].images) == 5
    fig = quiet(plot_modality_by_region(data.table))
    assert len(fig.axes) == 2
    assert len(fig.axes[0].texts) == (modality_by_region(data.table) > 0).to_numpy().sum()


def test_figures_of_tiny_tables(quiet):
    table = both([[ONE]], [[TWO, "C0040405"]]).assign(caption="normal")
    for plot in plot_splits, plot_concept_counts, plot_caption_lengths, plot_samples, plot_modality_by_region:
        quiet(plot(table))
    quiet(plot_top_concepts(table, NAMES))
