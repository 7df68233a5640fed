"""Folders of images of any model: the same scores as for a run, and a report that claims no more."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluation_helpers import PixelMeans, draw_images, of_images, pixel_features
from test_report import HOSTILE, Page

from radgen import evaluate
from radgen.cli import main
from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json, write_json
from radgen.evaluation.any_images import (
    caption_mode_of,
    drawing_order,
    id_warnings,
    image_set,
    match_ids,
    real_warnings,
    report_folder,
    sampled_by,
    set_values,
)
from radgen.evaluation.config import EvaluateConfig, LeaderboardConfig
from radgen.evaluation.image_sets import UNKNOWN
from radgen.evaluation.leaderboard import leaderboard
from radgen.evaluation.report_rows import report_page, score_values
from radgen.evaluation.results import CONCEPTS, MEMBERSHIP, MEMORISED, MS_SSIM, REIDENTIFIED, TSTR, TYPES, read_scores
from radgen.evaluation.material import Reference, run_reference
from radgen.evaluation.scores import read_samples
from radgen.prepared.folder import square_image


@pytest.fixture
def scores(drawn):
    return read_scores(read_json(drawn.with_name("drawn-evaluation") / "evaluation.json"))


def test_report_says_whose_images_these_are(drawn, scores):
    out = drawn.with_name("drawn-evaluation")
    about = scores.images
    assert (about.files, about.prompted, about.paired, scores.generated) == (42, 40, 40, 40)
    assert about.formats == {"JPEG": 40}
    assert set(about.sizes) == {"40 x 40", "48 x 48", "56 x 56"}
    assert about.left_out == {"image unreadable": 1, "no prompt": 1}
    assert set(scores.unmeasured) == {REIDENTIFIED, MEMBERSHIP}  # no patients, and no model
    assert scores.against.pixels == 16
    names = {path.name for path in out.iterdir()}
    assert names == {"evaluation.json", "fig", "groups.csv", "images.csv", "left_out.csv", "report.html", "report.md"}
    text = (out / "report.md").read_text()
    for said in ("42 images found in", "of which 40 were evaluated", "Left out: image unreadable (1), no prompt (1)"):
        assert said in text
    assert f"**{scores.distance:.1f}**" in text
    for of_a_run in ("Trained for", "Sampled by", "images per second", "## Training"):
        assert of_a_run not in text
    left_out = pd.read_csv(out / "left_out.csv").set_index("name").fault
    assert left_out["part-0/broken.png"] == "image unreadable: not an image"
    page = Page((out / "report.html").read_text())
    figures = {path.stem for path in (out / "fig").iterdir()}
    assert figures == {"comparison", "distance", "failures", "neighbours"}
    assert len(page.links) == len(figures)
    assert not any(Path(path).is_relative_to(drawn) for path in out.rglob("*"))


def test_command_and_python_give_the_same_and_compute_it_once(few, drawn, scores, cheap, monkeypatch, capsys):
    monkeypatch.setattr("radgen.evaluation.any_images.measure", lambda *a: pytest.fail("measured again"))
    assert evaluate(of_images(few, drawn)) == scores
    assert "2 of 42 images are left out (1 image unreadable, 1 no prompt)" in capsys.readouterr().err
    given = f"--images {drawn} --data {few.dir} --size 16 --min-images 20 --classifiers False --features vgg16"
    assert main(["evaluate", *given.split(), "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["distance"] == scores.distance


def test_without_prompts_what_needs_them_is_left_out_and_named(few, tmp_path, cheap):
    folder = draw_images(tmp_path / "plain", few.rows("test").head(30), metadata=False)
    found = evaluate(of_images(few, folder))
    assert {MS_SSIM, CONCEPTS, TYPES} < set(found.unmeasured)
    assert found.likeness is found.types is found.concepts is found.truth is None
    assert found.against.requests == ""
    assert found.draws["distance"]
    text = (tmp_path / "plain-evaluation" / "report.md").read_text()
    assert "## Not measured\n" in text
    assert "There are no prompts." in text
    for name, why in found.unmeasured.items():
        assert f"- {name}: {why}." in text
        assert f"| {name} |" not in text
    assert "unknown" not in text
    assert "## Concept by concept" not in text
    assert len(Page((tmp_path / "plain-evaluation" / "report.html").read_text()).links) == 3


def test_few_ids_leave_out_the_classifiers_alone(few, drawn, tmp_path, cheap):
    "Twelve images of forty have an id: too few for a classifier, enough for the rest."
    rows = few.rows("test").head(40)
    ids = rows.id.where(rows.index < 12, "")
    files = [f"part-{i % 2}/{i:03d}.jpg" for i in range(40)]
    pd.DataFrame({"file_name": files, "prompt": rows.caption, "id": ids}).to_csv(tmp_path / "p.csv", index=False)
    found = evaluate(of_images(few, drawn, prompts=tmp_path / "p.csv", classifiers=True, out=tmp_path / "out"))
    assert found.unmeasured[TSTR] == "only 12 prompts belong to real images"
    assert set(found.unmeasured) == {TSTR, REIDENTIFIED, MEMBERSHIP}
    assert found.usefulness is None
    assert found.types is not None
    assert len(found.hits["types"]) <= 12
    assert len(found.hits["copies"]) == 40


def test_few_held_out_images_leave_out_the_audit_and_name_it(few, tmp_path, cheap):
    rows = few.rows("valid")
    assert 6 <= len(rows) < 20
    folder = draw_images(tmp_path / "drawn", rows)
    found = evaluate(of_images(few, folder, split="valid", min_images=6))
    assert found.copies is None
    assert "copies" not in found.hits
    why = f"only {len(rows)} held-out images say how near new images come; 20 are needed"
    assert found.unmeasured[MEMORISED] == why
    out = tmp_path / "drawn-evaluation"
    for page in ("report.md", "report.html"):
        text = (out / page).read_text()
        assert why in text
        assert "Nearest training images" not in text
        assert "Privacy:" not in text
    assert not (out / "fig" / "neighbours.png").exists()
    pair = tuple(shutil.copytree(out, tmp_path / name) for name in ("first", "second"))
    assert MEMORISED not in leaderboard(LeaderboardConfig(pair, tmp_path / "board"))["rows"][0]


def test_samples_of_a_run_are_the_same_images_by_either_way(sampled):
    "The images, their order and what they are compared with; so the scores are the same, too."
    run, folder = sampled
    images, rows = read_samples(folder)
    cfg = EvaluateConfig(images=folder, data=run.prepared.dir, size=16, device="cpu")
    reference, ours, ours_rows, left_out, about = image_set(cfg, run.prepared)
    assert np.array_equal(ours, images)
    assert ours_rows.id.tolist() == rows.id.tolist()
    assert reference.against(ours_rows, cfg) == run_reference(run).against(rows, cfg)
    assert (reference.size, reference.caption_mode) == (run.config.image_size, run.config.caption_mode)
    assert left_out.empty
    assert "UNet (sample.json)" in about.models


def test_some_prompts_belong_to_real_images(few):
    rows = few.rows("test").head(3).assign(prompt=few.texts("test", 2)[:3], name="x")
    rows.loc[1, "id"] = "somebody's"
    assert (match_ids(rows, few, "test").id != "").tolist() == [True, False, True]
    assert caption_mode_of(rows, few, "test") == 2
    assert caption_mode_of(rows.assign(prompt="other"), few, "test") == 0
    seen = rows.assign(id=few.rows("train").id[:3].tolist())
    with pytest.raises(ConfigError, match="prompts of 3 images belong to training images, for example PHANTOM_train"):
        match_ids(seen, few, "test")


def test_ids_are_a_claim_of_the_table_and_doubted_where_no_prompt_agrees(few):
    rows = few.rows("test").head(3).assign(prompt=few.texts("test", 0)[:3], name="x")
    assert id_warnings(match_ids(rows, few, "test"), few, "test") == ()
    turned = rows.assign(prompt=["nothing", "of the", "kind"])
    (doubt,) = id_warnings(match_ids(turned, few, "test"), few, "test")
    assert doubt.startswith("none of 3 prompts is a text of the image that its id names: check the ids")
    other = match_ids(rows.assign(id=["somebody's", "", rows.id[2]]), few, "test")
    assert other.other_id.tolist() == ["somebody's", "", ""]
    (named,) = id_warnings(other, few, "test")
    assert named.startswith("1 ids name no image of the test split, for example somebody's")
    assert id_warnings(match_ids(rows.assign(prompt=""), few, "test"), few, "test") == ()
    some = rows.assign(prompt=[rows.prompt[0], "another", rows.prompt[2]])
    (part,) = id_warnings(match_ids(some, few, "test"), few, "test")
    assert part.startswith("1 of 3 prompts are no text of the image that its id names")
    (split,) = id_warnings(match_ids(rows.assign(id=few.rows("valid").id[:3].tolist()), few, "test"), few, "test")
    assert split.endswith(": give --split valid.")


def test_order_is_that_of_a_sampler_for_any_order_of_files():
    held_out = ["a", "b", "c"]
    drawn = pd.Series(["a", "b", "c", "a", "b"])
    for seed in range(5):
        mixed = drawn.sample(frac=1, random_state=seed).reset_index(drop=True)
        assert mixed[drawing_order(mixed, held_out)].tolist() == drawn.tolist()


def wrong(kind, few, drawn, tmp_path):
    "Options that cannot be evaluated."
    if kind == "few":
        return of_images(few, drawn, min_images=60)
    if kind == "prepared":
        return of_images(few, few.dir)
    if kind == "five":
        folder = draw_images(tmp_path / "five", few.rows("test").head(5))
        return of_images(few, folder, min_images=0)
    if kind == "inside":
        return of_images(few, drawn, out=drawn / "report")
    if kind == "other files":
        (tmp_path / "notes.txt").write_text("mine")
        return of_images(few, drawn, out=tmp_path)
    if kind == "not prepared":
        return replace(of_images(few, drawn), data=tmp_path)
    if kind == "too few real":
        return of_images(few, drawn, split="valid")
    if kind == "nothing":
        return EvaluateConfig(data=few.dir)
    if kind == "both":
        return replace(of_images(few, drawn), run=Path("runs/first"))
    return replace(of_images(few, drawn), samples=tmp_path)


def test_report_replaces_nothing_but_a_report_on_images(few, tmp_path):
    "Neither the samples of a run, which may hold evaluation.json, nor a folder around the images or the data."
    samples = tmp_path / "runs" / "r" / "samples" / "test"
    write_json(samples / "evaluation.json", {})
    (samples / "000000.png").write_bytes(b"x")
    images = tmp_path / "sets" / "drawn"
    images.mkdir(parents=True)
    cfg = of_images(few, images)
    with pytest.raises(ConfigError, match="holds other files: choose another --out"):
        report_folder(replace(cfg, out=samples))
    for folder in (tmp_path, images.parent, few.dir.parent):
        (folder / "left_out.csv").write_text("name,fault\n")
        with pytest.raises(ConfigError, match="--out .* would replace --.*, which lies in it"):
            report_folder(replace(cfg, out=folder))
        (folder / "left_out.csv").unlink()
    prompts = tmp_path / "board" / "prompts.csv"
    write_json(prompts, {})
    with pytest.raises(ConfigError, match="would replace --prompts"):
        report_folder(replace(cfg, out=tmp_path / "board", prompts=prompts))
    assert report_folder(cfg) == images.with_name("drawn-evaluation")


def test_real_images_among_the_others_are_counted(few):
    reference = Reference(few, "test", 16)
    real = np.array(reference.images("test"))
    assert real_warnings(255 - real[:10], reference, few.dir) == ()
    (warning,) = real_warnings(np.concatenate([real[:3], 255 - real[:7]]), reference, few.dir)
    assert warning.startswith("3 of 10 images are real images of the test split")
    with pytest.raises(DataError, match="holds the real images of the test split"):
        real_warnings(real[:5], reference, few.dir)


def test_training_images_among_the_others_are_counted(few):
    "A folder of training images has a small distance: whoever reads the distance must read why."
    reference = Reference(few, "test", 16)
    train = np.array(reference.images("train"))
    (some,) = real_warnings(np.concatenate([train[:2], 255 - train[:8]]), reference, few.dir)
    assert some.startswith("2 of 10 images are real images of the train split: without them")
    (every,) = real_warnings(train[:5], reference, few.dir)
    assert every.startswith("5 of 5 images are real images of the train split")


@pytest.mark.parametrize("content", ["[1]", "{", '{"model": 3}', '{"model": ["x"]}', '{"model": "a\\ud800b"}', "null"])
def test_sample_json_of_any_content_breaks_nothing(tmp_path, content):
    (tmp_path / "sample.json").write_text(content)
    found = sampled_by(pd.DataFrame({"image": [str(tmp_path / "000000.png")] * 2}))
    assert found == ({"a?b (sample.json)": 2} if "ud800" in content else {})


def test_both_sides_are_equalised_and_images_are_read_once(few, drawn, monkeypatch):
    opened = []
    monkeypatch.setattr("radgen.evaluation.image_sets.file_facts", lambda image: opened.append(image) or UNKNOWN)
    cfg = of_images(few, drawn, equalize=True)
    reference, images, rows, _, about = image_set(cfg, few)
    assert len(opened) == len(set(opened))
    assert reference.equalize
    assert reference.against(rows, cfg).equalize
    assert np.array_equal(images[0], square_image(rows.image[0], 16, equalize=True))
    assert about.folder == str(drawn.resolve())


WRONG = {
    "five": "5 generated images are too few for a report, which needs 6: give more",
    "prepared": "was written by radgen prepare and holds no images",
    "few": "40 generated images are too few for a distance: give more, or lower --min-images 60",
    "inside": "lies among the images: choose a folder outside",
    "other files": "holds other files: choose another --out",
    "not prepared": "is not a prepared folder",
    "too few real": "real valid images are too few",
    "nothing": "give either --run or --images with --data",
    "both": "give either --run or --images with --data",
    "samples": "--samples belongs to --run: leave it out",
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_evaluated_is_refused_in_one_sentence(kind, few, drawn, tmp_path, cheap):
    with pytest.raises((ConfigError, DataError), match=WRONG[kind]) as raised:
        evaluate(wrong(kind, few, drawn, tmp_path))
    assert str(raised.value).count(". ") == 0


def test_real_images_and_features_that_are_no_numbers_are_refused(few, drawn, tmp_path, cheap, monkeypatch):
    folder = tmp_path / "real"
    folder.mkdir()
    for path in few.rows("test").image.head(20):
        (folder / Path(path).name).write_bytes(Path(path).read_bytes())
    with pytest.raises(DataError, match="holds the real images of the test split"):
        evaluate(of_images(few, folder))

    class Broken(PixelMeans):
        def forward(self, u):
            return super().forward(u) / 0 - super().forward(u) / 0

    features = replace(pixel_features(), name="broken", net=Broken())
    monkeypatch.setattr("radgen.evaluation.any_images.make_features", lambda *a: features)
    with pytest.raises(DataError, match="the features of image 0 are not finite numbers"):
        evaluate(of_images(few, drawn, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", HOSTILE)
def test_what_files_say_stays_text_on_both_pages(scores, drawn, text):
    out = drawn.with_name("drawn-evaluation")
    about = replace(
        scores.images,
        folder=text,
        prompts=text,
        models={text: 3},
        formats={text: 1},
        sizes={text: 1},
        left_out={text: 1},
        warnings=(text,),
    )
    hostile = replace(scores, images=about)
    pages = {
        kind: [report_page(f"images.{kind}.j2", {**score_values(s), **set_values(s)}, out) for s in (scores, hostile)]
        for kind in ("html", "md")
    }
    plain, changed = map(Page, pages["html"])
    warning = ["ul", "li", "strong"]
    assert [tag for tag in changed.tags if tag not in warning] == [tag for tag in plain.tags if tag not in warning]
    assert all(link.startswith("data:image/png") for link in changed.links)
    assert text in changed.text
    assert "<script" not in pages["md"][1]
    assert "[x](" not in pages["md"][1]


def test_options_of_images_belong_to_images():
    with pytest.raises(ConfigError, match="--split is 'train': it must be one of valid, test"):
        EvaluateConfig(split="train")
    with pytest.raises(ConfigError, match="--size belongs to --images: leave it out"):
        evaluate(EvaluateConfig(Path("runs/first"), size=32))
