"""Whether synthetic images help: labels, leaks, pairs, intervals, and the command."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from test_tstr import blobs

from radgen import cli
from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json, write_json
from radgen.evaluation import utility_report
from radgen.evaluation.config import UtilityConfig
from radgen.evaluation.leaderboard import holm
from radgen.evaluation.utility import (
    REAL,
    Cell,
    Mixture,
    cell_rows,
    chosen_images,
    differences,
    mixtures,
    paired_interval,
    plan_cells,
    train_cell,
)
from radgen.evaluation.utility_labels import (
    UtilityImages,
    labels_of,
    read_utility_images,
    synthetic_folder,
    classes_to_test,
    with_labels,
)
from radgen.evaluation.utility_report import real_sizes, summary_lines, utility


def draw(folder, rows, ids=True, flip=True):
    "Mirrored images with a table of prompts, and perhaps the ids."
    folder.mkdir()
    for row in rows.itertuples():
        image = Image.open(row.image).convert("L").resize((32, 32))
        (image.transpose(0) if flip else image).save(folder / f"{row.id}.png")
    table = pd.DataFrame({"file_name": rows.id + ".png", "prompt": rows.caption})
    (table.assign(id=rows.id.to_numpy()) if ids else table).to_csv(folder / "metadata.csv", index=False)
    return folder


def options(few, folder, **more):
    "Quick options at 16 pixels."
    common = dict(sizes=("20",), times=(1,), seeds=2, steps=2, size=16, device="cpu")
    return UtilityConfig(folder, few.dir, **{**common, **more})


@pytest.fixture
def drawn(few, tmp_path):
    return draw(tmp_path / "drawn", few.rows("train").head(25))


def blob_images():
    "Discs and bars as real, synthetic and test images."
    columns = pd.MultiIndex.from_tuples([("shape", "disc"), ("shape", "bar")])
    parts = [blobs(n, seed) for n, seed in ((60, 0), (200, 1), (100, 2))]
    return UtilityImages(*[part for x, y in parts for part in (x, pd.DataFrame(y, columns=columns))])


def test_labels_are_those_of_the_image_whose_caption_was_drawn(few, drawn):
    images, leaks, left_out = read_utility_images(options(few, drawn), few, drawn)
    assert len(images.synthetic) == 25 and tuple(leaks) == (0, 0, 0) and left_out == 0
    assert (images.synthetic_labels.to_numpy() == images.train_labels.head(25).to_numpy()).all()
    assert list(images.synthetic_labels) == list(images.train_labels) == list(images.test_labels)


def test_prompts_without_ids_are_looked_up_among_training_captions(few, tmp_path):
    rows = few.rows("train").drop_duplicates("caption").head(20)
    with_ids = labels_of(("type", "concepts"), few, rows)
    unnamed = pd.DataFrame({"id": "", "prompt": rows.caption})
    assert labels_of(("type", "concepts"), few, with_labels(unnamed, few)).equals(with_ids)


def test_other_prompts_are_read(few, capsys):
    rows = with_labels(pd.DataFrame({"id": ["", "x"], "prompt": ["Chest X-ray with pneumothorax.", "CT."]}), few)
    assert labels_of(("type",), few, rows)["type"].to_numpy().argmax(1).tolist() == [1, 0]
    assert "2 synthetic images were read" in capsys.readouterr().err
    with pytest.raises(DataError, match="neither prompts nor ids"):
        with_labels(pd.DataFrame({"id": [""], "prompt": [""]}), few)


def test_classes_that_cannot_be_tested_are_left_out():
    train = pd.DataFrame({("a", "x"): [True], ("a", "rare"): [True], ("a", "unseen"): [False]})
    test = pd.DataFrame({("a", "x"): [True] * 10, ("a", "rare"): [True] * 9 + [False], ("a", "unseen"): [True] * 10})
    test = pd.concat([test, pd.DataFrame(False, range(10), test.columns)], ignore_index=True)
    assert classes_to_test(train, test) == [("a", "x")]


@pytest.mark.parametrize("ids", [True, False])
def test_images_for_captions_of_the_test_are_refused(few, tmp_path, ids):
    rows = few.rows("test").head(25)
    folder = draw(tmp_path / "drawn", rows, ids)
    with pytest.raises(ConfigError, match="drawn for captions of the test split"):
        read_utility_images(options(few, folder), few, folder)
    found, leaks, _ = read_utility_images(options(few, folder, test_prompts=True, tasks=("type",)), few, folder)
    known = rows.caption.isin(set(few.rows("train").caption)).sum()
    assert leaks.test_prompts == (25 if ids else 25 - known) and len(found.synthetic) == 25


def test_copies_are_left_out_or_counted(few, tmp_path):
    folder, test = draw(tmp_path / "drawn", few.rows("train").head(25)), few.images("test", 16)
    Image.fromarray(np.array(test[3])).save(folder / f"{few.rows('train').id[0]}.png")
    Image.fromarray(np.array(few.images("train", 16)[7])).save(folder / f"{few.rows('train').id[1]}.png")
    images, leaks, left_out = read_utility_images(options(few, folder), few, folder)
    assert (leaks.test_images, leaks.training_images, left_out, len(images.synthetic)) == (1, 1, 1, 24)
    for path in folder.glob("*.png"):
        Image.fromarray(np.array(test[3])).save(path)
    with pytest.raises(DataError, match="all synthetic images are real test images"):
        read_utility_images(options(few, folder), few, folder)


def test_newest_samples_of_a_run_that_are_not_of_the_test(few, tmp_path):
    run = tmp_path / "run"
    write_json(run / "config.json", {})
    write_json(run / "samples" / "a" / "sample.json", {"split": "test"})
    with pytest.raises(DataError, match="radgen sample --run .* --split train"):
        synthetic_folder(options(few, run))
    assert synthetic_folder(options(few, run, test_prompts=True)).name == "a"
    write_json(run / "samples" / "b" / "sample.json", {"split": "train"})
    write_json(run / "samples" / "c" / "sample.json", {"split": "test"})
    assert synthetic_folder(options(few, run)).name == "b"


def test_mixtures_of_a_seed_share_real_images():
    names = [m.name for m in mixtures((5, 1), 20, 100)]
    assert names == [REAL, "real + 1x", "real + 5x", "synthetic"]
    chosen = {c.mixture.name: chosen_images(c, 50, 100) for c in plan_cells((20,), (1, 5), 1, 100)}
    real = chosen[REAL][0]
    assert len(set(real)) == 20 and all((chosen[n][0] == real).all() for n in names[:-1])
    assert len(chosen["synthetic"][0]) == 0 and (chosen["synthetic"][1] == chosen["real + 5x"][1]).all()
    other = chosen_images(Cell(20, Mixture(REAL, True, 0), 1), 50, 100)[0]
    assert set(other) != set(real)


def test_difference_to_real_images_is_that_of_a_paired_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.7, 0.02, 6), rng.normal(0.75, 0.02, 6)
    expected = stats.ttest_rel(b, a)
    lower, upper, p = paired_interval(b - a)
    assert np.allclose([lower, upper], expected.confidence_interval()) and np.isclose(p, expected.pvalue)
    assert paired_interval(np.zeros(3)) == (0, 0, 1) and paired_interval(np.ones(1)) == (None, None, None)
    cells = plan_cells((20,), (1, 2), 6, 40)
    values = {"real": a, "real + 1x": b, "real + 2x": a[::-1], "synthetic": a - 0.2 * b}
    table = pd.DataFrame([r for c in cells for r in cell_rows(c, {"type": values[c.mixture.name][c.seed]})])
    found = differences(table)
    raw = [stats.ttest_rel(values[d.mixture], a).pvalue for d in found]
    assert np.allclose([d.p for d in found], holm(raw))
    assert [d.verdict for d in found] == ["helps", "not beyond chance", "harms"]
    assert "type: helps beyond chance: real + 1x at 20" in summary_lines(found)[0]


def test_one_seed_is_not_tested():
    cells = plan_cells((20,), (1,), 1, 20)
    found = differences(pd.DataFrame([r for c in cells for r in cell_rows(c, {"type": 0.5})]))
    assert {d.verdict for d in found} == {"one seed: not tested"}
    assert "not tested" in summary_lines(found)[0]


@pytest.mark.soak
def test_good_images_help_and_wrong_labels_harm():
    images = blob_images()
    flipped = images._replace(synthetic_labels=~images.synthetic_labels)
    scores = {"good": images, "flipped": flipped}
    cell = Cell(20, Mixture("real + 5x", True, 5), 0)
    alone = train_cell(Cell(20, Mixture(REAL, True, 0), 0), images, 60)["shape"]
    found = {name: train_cell(cell, x, 60)["shape"] for name, x in scores.items()}
    assert found["good"] >= alone > 0.8 > 0.4 > found["flipped"]


def test_sizes_that_the_data_do_not_have():
    assert real_sizes(("50", "all", "200"), 120) == [50, 120]
    with pytest.raises(ConfigError, match="there are 10 real training images"):
        real_sizes(("50", "all"), 10)


def test_command_goes_on_after_a_stop(few, drawn, monkeypatch, capsys):
    cfg, train, done = options(few, drawn), utility_report.train_cell, []

    def stopped(cell, *args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(cell)
        return train(cell, *args)

    monkeypatch.setattr(utility_report, "train_cell", stopped)
    with pytest.raises(KeyboardInterrupt):
        utility(cfg)
    done.clear()
    result = utility(cfg)
    assert len(done) == 3  # of six
    done.clear()
    assert utility(cfg) == result and not done
    with pytest.raises(KeyboardInterrupt):
        utility(options(few, drawn, steps=3))  # other options: nothing is taken over
    assert "25 synthetic images" not in capsys.readouterr().err


def test_command_line(few, drawn, tmp_path, capsys):
    out = tmp_path / "out $x$ <b>"
    words = ["utility", str(drawn), "--data", str(few.dir), "--out", str(out), "--sizes", "20", "--times", "1", "9"]
    assert cli.main([*words, "--seeds", "1", "--steps", "1", "--size", "16", "--tasks", "type", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "# Do drawn help?" in said.out and "9 times 20, since there are 25 synthetic images" in said.err
    assert {p.name for p in out.iterdir()} >= {f"utility.{k}" for k in ("json", "csv", "md", "html", "png")}
    assert read_json(out / "utility.json")["real"] == len(few.rows("train"))
    assert cli.main(["utility", str(drawn), "--data", str(few.dir), "--sizes", "50"]) == 2
    assert "25 synthetic images are fewer than 1 times 50" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    assert cli.main([*words[:4], "--out", str(tmp_path / "mine")]) == 2
    assert "holds other files" in capsys.readouterr().err
