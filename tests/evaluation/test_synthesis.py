"A synthetic data set keeps its mix, rejects by three reasons, is read back, and survives any stop with the same files."

import signal
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from evaluation_helpers import pixel_features
from PIL import Image

import radgen.evaluation.synthesis as synthesis
from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json
from radgen.evaluation.config import SynthesiseConfig
from radgen.evaluation.synthesis_checks import earlier_copy, requested_labels
from radgen.evaluation.synthesis_plan import read_mix
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare
from radgen.training.unfinished import Unfinished


@pytest.fixture
def request_of(small_run, tmp_path, monkeypatch):
    "A function that makes a request of one step, with features that cost nothing."
    monkeypatch.setattr(synthesis, "make_features", pixel_features)
    monkeypatch.setattr("radgen.evaluation.memorisation.SCALES", (1.0,))
    fixed = {"run": small_run, "n": 8, "steps": 1, "batch_size": 4, "device": "cpu", "out": tmp_path / "set"}
    return lambda **options: SynthesiseConfig(**fixed | options)


@pytest.fixture
def deciding(monkeypatch):
    "A function that replaces the decisions: each image with a number of `rejected` gets a reason."

    def use(reasons):
        def check_round(s, found, earlier, signals):
            why = [reasons.get(i, "") for i in found["index"]]
            return found.assign(probability=np.nan, ratio=0.25, neighbour="", reason=why)

        monkeypatch.setattr(synthesis, "check_round", check_round)

    return use


def manifest_of(out):
    return pd.read_csv(out / "manifest.csv", keep_default_na=False)


def files_of(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_rejected_images_are_replaced_by_others_of_their_label(request_of, deciding):
    deciding({0: "does not show: X-ray", 3: "near-duplicate of a training image: A", 8: "does not show: X-ray"})
    result = synthesis.synthesise(request_of(mix="balanced"))
    manifest = manifest_of(result["folder"])
    kept = manifest[manifest.outcome == "kept"]
    assert Counter(kept.label) == Counter({k: v for k, v in result["wanted"].items() if v})
    assert len(manifest) == 8 + 3
    assert result["outcomes"] == {"kept": 8, "does not show": 2, "near-duplicate of a training image": 1}
    assert manifest["index"].tolist() == list(range(11))
    assert manifest.label[8:].tolist()[:2] == manifest.label[[0, 3]].tolist()
    assert "11 that were drawn" in synthesis.synthesis_text(result)
    card = (result["folder"] / "README.md").read_text()
    assert "| does not show | 2 | 18.2% |" in card
    assert "not for clinical use" in card


def test_limit_of_attempts_ends_the_search(request_of, deciding, tmp_path):
    deciding(dict.fromkeys(range(1000), "does not show: everything") | {1: ""})
    result = synthesis.synthesise(request_of(attempts=2))
    assert result["outcomes"]["kept"] == 1
    assert 14 <= sum(result["outcomes"].values()) <= 16  # a label of one image may have reached it
    deciding(dict.fromkeys(range(1000), "does not show: everything"))
    with pytest.raises(DataError, match="all 16 images were rejected"):
        synthesis.synthesise(request_of(attempts=2, out=tmp_path / "none"))


@pytest.mark.parametrize("layout", ["imagefolder", "rocov2", "webdataset"])
def test_data_set_is_prepared_like_any_other(request_of, deciding, tmp_path, layout):
    deciding({})
    out = synthesis.synthesise(request_of(format=layout, n=6))["folder"]
    manifest = manifest_of(out)
    options = dict(
        llm="rules",
        k=1000,
        rule="any",
        copies="keep",
        min_entropy=0,
        max_entropy=8,
        min_brightness=0,
        max_brightness=255,
    )
    options |= dict(min_contrast=0, max_saturation=1.0, max_border=1.0)
    prepared = prepare(PrepareConfig(out, tmp_path / "prepared", **options))
    rows = prepared.rows("train").sort_values("id")
    assert rows.id.tolist() == manifest.synthetic.tolist()
    assert rows.caption.tolist() == manifest.prompt.tolist()
    assert [";".join(sorted(cuis)) for cuis in rows.cuis] == [";".join(sorted(c.split(";"))) for c in manifest.cuis]


def test_images_are_checked_by_probe_training_images_and_each_other(request_of, small_run, tmp_path):
    result = synthesis.synthesise(request_of(attempts=1, n=12))
    out, run = result["folder"], synthesis.load_run(small_run)
    manifest, card = manifest_of(out), (result["folder"] / "README.md").read_text()
    assert len(manifest) == 12
    labels = requested_labels(run.prepared, run.prepared.rows("train"))
    assert set(labels) and all(f"| {name} |" in card for name in labels)
    few = [line for line in card.splitlines() if "validation images have it" in line]
    assert len(few) >= len(labels.columns) - 2  # some twenty validation images: hardly a probe has ten of either kind
    assert set(manifest.outcome.str.partition(":")[0]) <= {
        "kept",
        "does not show",
        "near-duplicate of a training image",
        "near-duplicate of a synthetic image",
    }
    assert manifest.nearest_training.isin(["", *run.prepared.rows("train").id]).all()


def test_copies_of_an_earlier_image_are_found(tmp_path):
    rng, files = np.random.default_rng(0), []
    pictures = [rng.integers(0, 255, (8, 8)).astype(np.uint8) for _ in range(3)]
    for i, array in enumerate([*pictures, pictures[1]]):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(array).resize((96, 96), Image.Resampling.BICUBIC).save(files[-1])
    assert earlier_copy(files, ["a", "b", "c", "d"]).tolist() == ["", "", "", "b"]


def test_stop_in_any_round_goes_on_with_the_same_files(request_of, monkeypatch, tmp_path):
    decide = synthesis.check_round

    def rejecting(s, found, earlier, signals):
        decided = decide(s, found, earlier, signals)
        decided.loc[decided["index"].isin([1, 2, 8]), "reason"] = "does not show: anything"
        return decided

    monkeypatch.setattr(synthesis, "check_round", rejecting)
    whole = files_of(synthesis.synthesise(request_of(out=tmp_path / "whole"))["folder"])
    real, calls = synthesis.draw_images, []

    def draw(*args):
        calls.append(args[-1])
        if len(calls) in (1, 3):
            signal.raise_signal(signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(synthesis, "draw_images", draw)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            synthesis.synthesise(request_of())
    assert files_of(synthesis.synthesise(request_of())["folder"]) == whole
    drawn = [i for indices in calls for i in indices]
    assert len(drawn) == len(set(drawn))
    assert not Unfinished(tmp_path / "set").dir.exists()
    calls.clear()
    synthesis.synthesise(request_of())
    assert not calls


def test_prompts_of_a_file_take_the_place_of_captions(request_of, deciding, tmp_path):
    deciding({})
    lines = tmp_path / "prompts.txt"
    lines.write_text("computed tomography, head\nultrasonography\n")
    result = synthesis.synthesise(request_of(prompts=lines, n=3))
    manifest = manifest_of(result["folder"])
    assert set(manifest.prompt) == {"computed tomography, head", "ultrasonography"}
    assert result["wanted"] == {"prompts": 3}
    assert read_json(result["folder"] / "synthesis.json")["prompts"]["file"] == "prompts.txt"


def test_wrong_mix_is_one_sentence(request_of, tmp_path):
    with pytest.raises(ConfigError, match="give training, balanced, or a CSV file"):
        synthesis.synthesise(request_of(mix="even"))
    table = tmp_path / "mix.csv"
    table.write_text("label,share\nHolography,1\n")
    with pytest.raises(ConfigError, match="no training caption has the label 'Holography'"):
        synthesis.synthesise(request_of(mix=str(table)))


@pytest.mark.parametrize("content", [b"\xff\xfeC\0T\0", b"\x89PNG\r\n\x1a\n\0", "Röntgen".encode("latin-1")])
def test_prompts_that_are_no_text_are_refused(tmp_path, content):
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(DataError, match="not a text file in UTF-8: save it as UTF-8"):
        synthesis.prompt_captions(tmp_path / "prompts.txt")


def test_mix_and_prompts_exclude_each_other(request_of, tmp_path):
    (tmp_path / "prompts.txt").write_text("CT")
    for options in ({"mix": "balanced"}, {"by": "concepts"}):
        with pytest.raises(ConfigError, match="leave them out with --prompts"):
            synthesis.synthesise(request_of(prompts=tmp_path / "prompts.txt", **options))


def test_what_is_not_checked_is_said(request_of, deciding, capsys, monkeypatch):
    deciding({})
    monkeypatch.setattr("radgen.evaluation.synthesis_checks.FEWEST_HELD_OUT", 10**6)
    synthesis.synthesise(request_of(n=2))
    said = capsys.readouterr().err
    assert "labels: " in said and "validation images have it" in said
    assert "Not checked: near-duplicates of training images, since there are too few validation images." in said


def test_shares_that_do_not_add_up_are_named(tmp_path, capsys):
    table = tmp_path / "mix.csv"
    for shares, said in (((0.5, 0.5), ""), ((50, 50), ""), ((3, 1), f"The shares of {table} add up to 4")):
        table.write_text("label,share\nCT,{}\nMR,{}\n".format(*shares))
        assert read_mix(table, ["CT", "MR"]) == dict(zip(("CT", "MR"), shares))
        assert capsys.readouterr().err.startswith(said) and bool(said) == (shares == (3, 1))
    table.write_text("label,share\n")
    with pytest.raises(DataError, match="has a header and no rows: give a label and a share in each row"):
        read_mix(table, ["CT"])
