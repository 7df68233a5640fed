"""A reader study: nothing but the image tells real from generated, bad files are refused, and the scores are right."""

import io
import json
import os
import re
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import binomtest

from radgen.cli import main
from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json, write_json
from radgen.evaluation.config import StudyConfig, StudyScoreConfig
from radgen.evaluation.reader_study import build_study
from radgen.evaluation.study_answers import Answer, read_all, read_answers, read_key, write_answers
from radgen.evaluation.study_design import critical_count, detectable_accuracy
from radgen.evaluation.study_images import Side, draw_images, is_jpeg, mode_matches, read_side, usual_side
from radgen.evaluation.study_report import score_study, scores_text, study_scores, verdict
from radgen.evaluation.study_statistics import (
    accuracy_estimate,
    agreement,
    caption_scores,
    cohen_kappa,
    fleiss_kappa,
    permutation_p,
    wilson,
)

from evaluation_helpers import random_images, write_images

HOSTILE = "</script><script>document.title='owned'</script> <img src=x onerror=alert(1)> & \"quotes\""


@pytest.fixture
def sides(tmp_path):
    "Ten real and ten generated images, all of which are drawn."
    return [write_images(tmp_path / name, random_images(10, 24, seed)) for seed, name in enumerate(("real", "fake"))]


def with_captions(folder, captions):
    "Turn a folder of images into an ImageFolder."
    names = sorted(p.name for p in folder.glob("*.png"))
    pd.DataFrame({"file_name": names, "text": captions}).to_csv(folder / "metadata.csv", index=False)
    return folder


def data_of(page):
    "The data that a page holds."
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_page_is_the_same_whichever_side_is_real(sides, tmp_path):
    "It cannot hold the truth if it does not depend on it."
    real, fake = sides
    a, b = (
        build_study(StudyConfig(x, y, n=20, out=tmp_path / f"{x.name}-is-real"))
        for x, y in ((real, fake), (fake, real))
    )
    assert a["page"].read_bytes() == b["page"].read_bytes()
    truths = [[i["truth"] for i in read_json(r["folder"] / "key.json")["items"].values()] for r in (a, b)]
    assert all(x != y for x, y in zip(*truths))
    for name in ("design.md", "design.json"):
        assert (a["folder"] / name).read_bytes() == (b["folder"] / name).read_bytes()


def test_files_differ_in_their_pixels_alone(sides, tmp_path):
    real, fake = sides
    Image.fromarray(random_images(1, 24, 7)[0]).save(fake / "000.png", pnginfo=None, compress_level=9)
    os.utime(fake / "001.png", (1e9, 1e9))
    study = build_study(StudyConfig(real, fake, n=20, out=tmp_path / "study"))
    files = sorted((study["folder"] / "images").iterdir())
    assert [p.name for p in files] == [f"{i:02d}.png" for i in range(1, 21)]
    stats = [p.stat() for p in files]
    assert len({(s.st_size, s.st_mtime_ns, s.st_mode) for s in stats}) == 1
    opened = [Image.open(p) for p in files]
    assert {(im.mode, im.size, im.format, str(im.info)) for im in opened} == {("L", (24, 24), "PNG", "{}")}
    assert len({len(item["image"]) for item in data_of(study["page"])["items"]}) == 1


def test_order_of_numbers_says_nothing_of_the_truth(tmp_path):
    "Over twenty studies, the truths of the first half of the numbers are mixed as by a coin."
    first = []
    for seed in range(20):
        pair = [write_images(tmp_path / f"{seed}{i}", random_images(5, 16, 2 * seed + i)) for i in (0, 1)]
        drawn, _, _ = draw_images(StudyConfig(*pair, n=10))
        first += [d.truth == "real" for d in drawn[:5]]
    assert binomtest(sum(first), len(first)).pvalue > 0.001
    assert 0 < sum(first) < 100


def test_captions_are_text_and_cannot_leave_their_element(sides, tmp_path):
    for folder in sides:
        with_captions(folder, [f"{HOSTILE} {i}" for i in range(10)])
    study = build_study(StudyConfig(*sides, n=20, out=tmp_path / "study"))
    text = study["page"].read_text(encoding="utf-8")
    assert study["captions"]
    assert text.count("<script") == 2 and text.count("</script>") == 2
    assert "owned'</" not in text and "<img src=x" not in text
    assert all(item["caption"].startswith(HOSTILE) for item in data_of(study["page"])["items"])


def test_the_policy_of_the_page_allows_its_own_script_and_style_and_nothing_else(sides, tmp_path):
    import base64
    import hashlib

    text = build_study(StudyConfig(*sides, n=20, out=tmp_path / "study"))["page"].read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:" and "connect-src" not in rules
    for element, rule in (("script", "script-src"), ("style", "style-src")):
        content = re.search(rf"<{element}>(.*?)</{element}>", text, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not re.search(r"https?://|fetch\(|XMLHttp|WebSocket|sendBeacon| src=\"(?!data:)", text)


def test_captions_of_one_side_are_not_shown(sides, tmp_path):
    with_captions(sides[0], [f"chest {i}" for i in range(10)])
    study = build_study(StudyConfig(*sides, n=20, out=tmp_path / "study"))
    assert not study["captions"]
    assert "chest" not in study["page"].read_text(encoding="utf-8")
    assert any("only the real images have captions" in remark for remark in study["remarks"])


def test_captions_of_as_many_real_images_are_shown_twice_and_reported(sides, tmp_path):
    for folder in sides:
        with_captions(folder, [f"CT {i}" for i in range(10)])
    remarks = draw_images(StudyConfig(*sides, n=20))[2]
    assert any("10 captions are shown twice" in remark for remark in remarks)
    assert not any("shown twice" in remark for remark in draw_images(StudyConfig(*sides, n=10))[2])


def test_a_caption_of_both_sides_is_found_whatever_the_ids_are(sides, tmp_path):
    real, fake = sides
    for path in fake.glob("*.png"):
        path.rename(fake / f"generated-{path.name}")
    with_captions(real, [f"CT {i}" for i in range(10)])
    with_captions(fake, [f" CT {i}" for i in range(10)])
    drawn, _, remarks = draw_images(StudyConfig(*sides, n=10))
    assert not any("shown twice" in remark for remark in remarks)
    assert len({d.caption.strip() for d in drawn}) == 10
    assert any("10 captions are shown twice" in remark for remark in draw_images(StudyConfig(*sides, n=20))[2])


def test_repeated_captions_of_one_side_are_drawn_last_and_reported(tmp_path):
    "A caption that comes again would tell that the image was generated."
    real = with_captions(write_images(tmp_path / "real", random_images(12, 16, 1)), [f"real {i}" for i in range(12)])
    fake = with_captions(
        write_images(tmp_path / "fake", random_images(12, 16, 2)), [f"fake {i % 6}" for i in range(12)]
    )
    drawn, _, remarks = draw_images(StudyConfig(real, fake, n=12))
    assert len({d.caption for d in drawn}) == 12 and not any("repeat" in remark for remark in remarks)
    assert any(
        "0 real and 4 generated images repeat" in remark for remark in draw_images(StudyConfig(real, fake, n=20))[2]
    )
    hidden = draw_images(StudyConfig(real, fake, n=20, captions=False))[2]
    assert not any("repeat" in remark for remark in hidden)


def test_captions_of_another_length_are_reported(sides):
    with_captions(sides[0], [f"CT {i}" for i in range(10)])
    with_captions(sides[1], [f"CT of the chest after contrast {i}" for i in range(10)])
    assert any("4 characters on real and 32 on" in remark for remark in draw_images(StudyConfig(*sides, n=20))[2])


def test_samples_of_a_model_that_was_trained_on_equalised_images(sides, few, tmp_path):
    samples = tmp_path / "run" / "samples"
    samples.mkdir(parents=True)
    samples_of(samples / "a", few, 2, 10)
    (tmp_path / "run" / "config.json").write_text('{"equalize": true}')
    for fake in (tmp_path / "run", samples / "a"):
        for equalize in (False, True):
            remarks = draw_images(StudyConfig(sides[0], fake, n=20, equalize=equalize))[2]
            assert any("give --equalize True" in remark for remark in remarks) != equalize
    (tmp_path / "run" / "config.json").write_text('{"equalize": false}')
    assert not any("equalize" in remark for remark in draw_images(StudyConfig(sides[0], samples / "a", n=20))[2])


def test_another_brightness_of_one_side_is_reported(sides, tmp_path):
    dark = write_images(tmp_path / "dark", random_images(10, 24, 3) // 2)
    remark = next(r for r in draw_images(StudyConfig(dark, sides[1], n=20))[2] if "grey value" in r)
    assert re.search(r"real images have a mean grey value of 6\d with .* 3\d, generated ones 12\d with 7\d", remark)
    for cfg in (StudyConfig(*sides, n=20), StudyConfig(dark, sides[1], n=20, equalize=True)):
        assert not any("grey value" in remark for remark in draw_images(cfg)[2])


def samples_of(folder, prepared, mode, n, split="test"):
    "Noise as samples for captions of a prepared folder."
    rows = prepared.rows(split).iloc[:n]
    write_images(folder, random_images(n, 24, 5))
    for i in range(n):
        (folder / f"{i:03d}.png").rename(folder / f"{i:06d}.png")
    (folder / "grid.png").write_bytes(b"no image of the study")
    table = {"index": range(n), "id": rows.id, "prompt": prepared.texts(split, mode)[:n], "seed": 0}
    pd.DataFrame(table).to_csv(folder / "samples.csv", index=False)
    return folder


def test_prepared_folder_and_samples_of_a_run(few, tmp_path):
    "The caption mode is that of the samples, and no caption is shown with both a real and a generated image."
    (tmp_path / "run" / "samples").mkdir(parents=True)
    samples = samples_of(tmp_path / "run" / "samples" / "test-0", few, 3, 20)
    cfg = StudyConfig(few.dir, tmp_path / "run", n=30)
    fake = read_side("--fake", cfg.fake, cfg)
    matches = mode_matches(few, fake.table)
    assert max(matches, key=matches.get) == 3 and matches[3] == 20
    drawn, size, remarks = draw_images(cfg)
    assert size == 24
    assert len({d.id for d in drawn}) == 30
    texts = dict(zip(few.rows("test").id, few.texts("test", 3)))
    assert all(texts[d.id] == d.caption for d in drawn)
    assert {os.path.dirname(d.image) for d in drawn if d.truth == "generated"} == {str(samples)}
    assert any("sharpness" in remark for remark in remarks)


def test_the_caption_mode_is_found_in_all_splits_and_a_foreign_one_is_reported(few, tmp_path):
    samples = samples_of(tmp_path / "train", few, 3, 10, "train")
    texts = dict(zip(few.rows("test").id, few.texts("test", 3)))
    drawn, _, remarks = draw_images(StudyConfig(few.dir, samples, n=20))
    assert all(texts[d.id] == d.caption for d in drawn if d.truth == "real")
    assert not any("style" in remark for remark in remarks)
    remarks = draw_images(StudyConfig(few.dir, samples, n=20, caption_mode=0))[2]
    assert any("(mode 0) are not in the style of the prompts: give --caption-mode 3" in remark for remark in remarks)
    table = pd.read_csv(samples / "samples.csv").assign(prompt=[f"a chest radiograph {i}" for i in range(10)])
    table.to_csv(samples / "samples.csv", index=False)
    remarks = draw_images(StudyConfig(few.dir, samples, n=20))[2]
    assert any("(mode 2) are not in the style of the prompts: give --captions False" in remark for remark in remarks)


def test_jpeg_within_parquet_is_found_and_an_unknown_format_is_said(sides, tmp_path):
    real, fake = sides
    content = {}
    for name in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        Image.open(real / "000.png").save(buffer, name)
        content[name] = buffer.getvalue()
    cells = [
        {"bytes": content["JPEG"], "path": "a"},
        {"bytes": content["PNG"], "path": "b"},
        {"bytes": b"?", "path": ""},
    ]
    pd.DataFrame({"image": cells}).to_parquet(tmp_path / "images.parquet")
    found = [is_jpeg(f"{tmp_path / 'images.parquet'}#image:{i}") for i in range(3)]
    assert found == [True, False, None]
    assert is_jpeg(str(tmp_path / "none.png")) is None


def test_jpeg_of_one_side_is_reported_unless_both_sides_pass_through_it(sides, tmp_path):
    real, fake = sides
    jpegs = tmp_path / "jpegs"
    jpegs.mkdir()
    for path in real.iterdir():
        Image.open(path).save(jpegs / f"{path.stem}.jpg")
    assert any("JPEG" in remark for remark in draw_images(StudyConfig(jpegs, fake, n=20))[2])
    drawn, _, remarks = draw_images(StudyConfig(jpegs, fake, n=20, jpeg=50))
    assert not any("JPEG" in remark for remark in remarks)
    originals = {bytes(np.asarray(Image.open(p))) for p in fake.iterdir()}
    assert not originals & {bytes(np.asarray(Image.open(io.BytesIO(d.png)))) for d in drawn}


def test_small_damaged_and_repeated_images_are_left_out_and_counted(sides):
    real, fake = sides
    Image.fromarray(random_images(1, 16)[0]).save(real / "small.png")
    (real / "damaged.png").write_bytes((real / "000.png").read_bytes()[:200])
    (real / "again.png").write_bytes((real / "000.png").read_bytes())
    drawn, size, remarks = draw_images(StudyConfig(real, fake, n=20, size=24))
    assert size == 24 and len(drawn) == 20
    with pytest.raises(DataError) as e:
        draw_images(StudyConfig(real, fake, n=22, size=24))
    assert "--fake" in str(e.value) and "give --n 20 or less" in str(e.value)
    for i in (3, 4):
        Image.fromarray(random_images(1, 24, 50 + i)[0]).save(fake / f"more{i}.png")
    with pytest.raises(DataError) as e:
        draw_images(StudyConfig(real, fake, n=24, size=24))
    for reason in ("1 smaller than 24 pixels", "1 unreadable", "1 repeated"):
        assert reason in str(e.value)


def test_the_size_of_a_study_of_many_sizes_leaves_few_images_out(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i, side in enumerate(range(40, 70)):
        Image.fromarray(random_images(1, side, i)[0]).save(folder / f"{i:02d}.png")
    table = pd.DataFrame({"image": sorted(map(str, folder.glob("*.png"))), "id": "", "caption": ""})
    assert usual_side(Side("--real", folder, table), 30, 0) == 40  # all are needed
    assert 40 <= usual_side(Side("--real", folder, table), 20, 0) <= 46
    small = usual_side(Side("--real", folder, pd.concat([table] * 9, ignore_index=True)), 200, 0)
    assert 41 <= small <= 44
    even = write_images(tmp_path / "even", random_images(30, 48))
    table = pd.DataFrame({"image": sorted(map(str, even.glob("*.png"))), "id": "", "caption": ""})
    assert usual_side(Side("--fake", even, table), 30, 0) == 48


def test_a_page_that_no_browser_opens_is_refused_before_drawing(sides):
    with pytest.raises(ConfigError, match="2000 images of 512 pixels is 699 MB, which browsers do not open"):
        draw_images(StudyConfig(*sides, n=2000, size=512))


def test_a_key_with_another_truth_is_not_up_to_date(sides, tmp_path, capsys):
    "The name of a study does not depend on the truth."
    real, fake = sides
    build_study(StudyConfig(real, fake, n=20, out=tmp_path / "study"))
    with pytest.raises(ConfigError, match="with another truth"):
        build_study(StudyConfig(fake, real, n=20, out=tmp_path / "study"))
    before = {p.name: p.read_bytes() for p in (tmp_path / "study").glob("*.*")}
    (tmp_path / "study" / "study.html").unlink()
    capsys.readouterr()
    build_study(StudyConfig(real, fake, n=20, out=tmp_path / "study"))
    assert "lacked study.html" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in (tmp_path / "study").glob("*.*")} == before
    assert len(list((tmp_path / "study").iterdir())) == 5
    (tmp_path / "study" / "key.json").write_text("[1]")
    with pytest.raises(DataError, match="is not the key of a reader study"):
        build_study(StudyConfig(real, fake, n=20, out=tmp_path / "study"))


def test_folders_that_make_no_study(sides, tmp_path):
    real, fake = sides
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for pair, message in (
        ((tmp_path / "none", fake), "there is no folder .*none: give --real"),
        ((real, tmp_path / "empty"), "holds no image: give --fake"),
        ((real, real), "are the same image"),
    ):
        with pytest.raises(DataError, match=message):
            build_study(StudyConfig(*pair, n=20, out=tmp_path / "study"))
    with pytest.raises(ConfigError, match="holds other files: choose another --out"):
        build_study(StudyConfig(real, fake, n=20, out=tmp_path / "mine"))
    build_study(StudyConfig(real, fake, n=20, out=tmp_path / "study"))
    with pytest.raises(ConfigError, match="whose key would be lost"):
        build_study(StudyConfig(real, fake, n=10, out=tmp_path / "study"))
    assert len(read_json(tmp_path / "study" / "key.json")["items"]) == 20


@pytest.fixture
def study(sides, tmp_path):
    "A study with captions, and its key."
    for folder in sides:
        with_captions(folder, [f"CT, {folder.name} {i}" for i in range(10)])
    build_study(StudyConfig(*sides, n=20, out=tmp_path / "study"))
    return read_key(tmp_path / "study")


def answers_of(key, wrong=(), open_items=(), **more):
    "Correct answers, except for some images."
    other = {"real": "generated", "generated": "real"}
    return {
        item: Answer(answer=other[truth] if item in wrong else truth, **more)
        for item, truth in key.items.truth.items()
        if item not in open_items
    }


def write(key, folder, reader, *args, **more):
    path = folder / f"answers-{reader}.json"
    write_answers(path, key.study, reader, answers_of(key, *args, **more))
    return path


def test_partial_answers_are_counted_and_images_that_fooled_come_first(study, tmp_path):
    files = (
        write(study, tmp_path, "ann", ("01", "02"), score=4),
        write(study, tmp_path, "bob", ("02",), ("03", "04"), score=2),
    )
    s = score_study(StudyScoreConfig(study.folder, files, repeats=200))
    ann, bob = s.readers
    assert (ann.answered, ann.accuracy.count, bob.answered, bob.accuracy.count) == (20, 18, 18, 17)
    assert ann.sensitivity.count + ann.specificity.count == 18
    assert s.accuracy.value == pytest.approx((18 / 20 + 17 / 18) / 2)
    assert (s.fooled[0].item, s.fooled[0].wrong, s.fooled[1].item) == ("02", 2, "01")
    assert s.agreement.images == 18 and s.agreement.pairs[0].images == 18
    assert s.captions.real.value == pytest.approx(s.captions.generated.value, abs=0.3)
    page = (study.folder / "score.html").read_text(encoding="utf-8")
    assert "18 of 20" in page and "2 of 2" in page
    assert read_json(study.folder / "score.json")["readers"][1]["answered"] == 18


def test_one_perfect_reader(study, tmp_path):
    s = score_study(StudyScoreConfig(study.folder, (write(study, tmp_path, "ann"),), repeats=200))
    assert s.fooled == [] and s.captions is None and s.agreement.pairs == [] and s.agreement.fleiss is None
    assert s.p < 0.01 and "more often than by chance" in verdict(s)
    assert (s.accuracy.low, s.accuracy.high) == pytest.approx(binomtest(20, 20).proportion_ci(method="wilson"))
    page = (study.folder / "score.html").read_text(encoding="utf-8")
    assert "Every answer was correct." in page and "nobody to agree with" in page
    assert "No image fooled a reader" in scores_text(s)


def test_a_reader_near_chance_is_reported_with_what_the_study_could_have_found(study, tmp_path):
    wrong = [
        *study.items.index[study.items.truth == "real"][:5],
        *study.items.index[study.items.truth == "generated"][:5],
    ]
    s = score_study(StudyScoreConfig(study.folder, (write(study, tmp_path, "ann", wrong),), repeats=200))
    assert s.readers[0].d_prime == pytest.approx(0) and s.p > 0.5
    assert f"{detectable_accuracy(20):.0%}" in verdict(s) and "not distinguished from chance" in verdict(s)


def test_readers_with_few_answers_are_left_out_of_the_primary_result(study, tmp_path):
    few_answers = list(study.items.index[1:])
    files = write(study, tmp_path, "ann", ("01", "02", "03")), write(study, tmp_path, "bob", ("01",), few_answers)
    s = score_study(StudyScoreConfig(study.folder, files, repeats=200))
    assert s.counted == ["ann"] and s.accuracy.value == pytest.approx(17 / 20)
    assert "Left out, since fewer than 50% of the images are answered: bob." in verdict(s)
    s = score_study(StudyScoreConfig(study.folder, files[1:], repeats=200))
    assert s.accuracy is None and s.p is None and s.readers[0].answered == 1
    assert verdict(s).startswith("No primary result: fewer than 50% of the images are answered by each reader (bob)")
    assert "No primary result" in (study.folder / "score.html").read_text(encoding="utf-8")


def test_power_is_that_of_the_answered_images(study, tmp_path):
    half = list(study.items.index[study.items.truth == "real"][:5]) + list(
        study.items.index[study.items.truth == "generated"][:5]
    )
    path = write(study, tmp_path, "ann", half[:3] + half[5:8], [i for i in study.items.index if i not in half])
    s = score_study(StudyScoreConfig(study.folder, (path,), repeats=200))
    found = f"accuracy of {detectable_accuracy(10):.0%} or more would have been found"
    assert f"{found} with 80% power and 10 answers" in verdict(s)
    key = replace(study, items=study.items.loc[half[3:7]])  # four images
    table = read_all([path], study)
    s = study_scores(table[table.item.isin(key.items.index)].assign(answer="real"), key, 200)
    assert "With 4 answers of a reader, no accuracy can be distinguished" in verdict(s)


def damaged(kind, key, path):
    "Write a file of answers with one fault."
    write_answers(path, key.study, "ann", answers_of(key))
    content = read_json(path)
    if kind == "other study":
        content["study"] = "00000000"
    elif kind == "changed":
        content["answers"]["01"]["comment"] = "x"
    elif kind == "unknown image":
        write_answers(path, key.study, "ann", {"99": Answer(answer="real")})
        return
    elif kind == "nothing answered":
        write_answers(path, key.study, "ann", {"01": Answer(comment="?")})
        return
    elif kind == "hostile study":
        content["study"] = f"{key.study}\n\x1b[2JAll files are accepted."
    elif kind == "hostile field":
        content["answers"]["01"]["\x1b[31m\n" + "x" * 500] = 1
    elif kind == "hostile number":
        content["answers"]["\x1b[31m\n"] = {"score": 9}
    elif kind == "hostile image":
        write_answers(path, key.study, "ann", {"\x1b[31m\n": Answer(answer="real")})
        return
    elif kind == "many seconds":
        content["answers"]["01"]["seconds"] = 10**400
    elif kind == "long reader":
        content["reader"] = "a" * 41
    elif kind == "text for a number":
        content["answers"]["01"]["score"] = "5"
    elif kind == "list":
        content = [content]
    elif kind == "deep":
        path.write_text("[" * 100_000)
        return
    elif kind == "bytes":
        path.write_bytes(b"\xff\xfe\x00" * 50)
        return
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "kind, message",
    [
        ("other study", "has answers of the study 00000000"),
        ("changed", "was changed after it was saved"),
        ("unknown image", "an answer to the image '99'"),
        ("nothing answered", "says of no image whether it is real"),
        ("hostile study", "is not a file of answers"),
        ("hostile field", "is not a file of answers"),
        ("hostile number", "is not a file of answers"),
        ("hostile image", "which the study lacks"),
        ("many seconds", "seconds: Input should be less than or equal to 86400"),
        ("long reader", "is not a file of answers"),
        ("text for a number", "is not a file of answers"),
        ("list", "is not a file of answers"),
        ("deep", "is not a file of answers"),
        ("bytes", "is not a file of answers"),
    ],
)
def test_files_of_answers_that_are_refused(study, tmp_path, kind, message):
    path = tmp_path / "bad.json"
    damaged(kind, study, path)
    with pytest.raises(DataError, match=message) as e:
        read_answers(path, study)
    assert str(path) in str(e.value) and str(e.value).isprintable() and len(str(e.value)) < len(str(path)) + 300


@pytest.mark.parametrize("change", ["items", "truth", "path", "format", "list"])
def test_damaged_keys_are_refused(study, change):
    path = study.folder / "key.json"
    content = read_json(path)
    if change == "items":
        del content["items"]
    elif change == "truth":
        content["items"]["01"]["truth"] = "maybe"
    elif change == "path":
        content["items"]["../../x"] = content["items"]["01"]
    elif change == "format":
        content["format"] = 2
    else:
        content = [content]
    write_json(path, content)
    with pytest.raises(DataError, match="is not the key of a reader study"):
        read_key(study.folder)


@pytest.mark.parametrize("content", ['{"format": 1, "stu', "[" * 100_000, ""], ids=["cut", "deep", "empty"])
def test_advice_for_a_truncated_key_does_not_destroy_the_truth(study, content):
    (study.folder / "key.json").write_text(content)
    with pytest.raises(DataError, match="key.json is damaged: bring back the file that was built") as e:
        read_key(study.folder)
    assert "delete" not in str(e.value)


def test_the_checksum_is_crc32_of_plain_lines(study, tmp_path):
    "What the page computes in JavaScript, spelt out."
    path = tmp_path / "a.json"
    write_answers(path, study.study, "ann", {"01": Answer(answer="real", score=3, seconds=7, comment="größer\n2")})
    lines = f"{study.study}\nann\n01\treal\t3\t7\tgrößer\n2"
    assert read_json(path)["check"] == f"{zlib.crc32(lines.encode()):08x}"


def test_commands(sides, tmp_path, capsys):
    real, fake = map(str, sides)
    out = tmp_path / "study"
    assert main(["reader-study", "--real", real, "--fake", fake, "--n", "20", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "15 or more correct answers of 20" in printed and "study.html" in printed
    key = read_key(out)
    files = [str(write(key, tmp_path, reader)) for reader in ("ann", "bob")]
    assert main(["reader-study", "score", str(out), *files, "--repeats", "100", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["study"] == key.study and result["agreement"]["fleiss"] == 1
    assert main(["reader-study", "score", str(out), files[0], files[0]]) == 2
    assert "are both by the reader ann" in capsys.readouterr().err


def test_power_is_that_of_simulated_readers():
    n = 60
    rng = np.random.default_rng(0)
    for skill, low, high in ((0.5, 0, 0.05), (detectable_accuracy(n), 0.78, 0.82)):
        correct = rng.binomial(n, skill, 20_000)
        assert low <= np.mean(correct >= critical_count(n)) <= high


def kappa_by_formula(a, b, distance):
    "One less the mean distance of the two answers to an image over that of any two answers."
    return 1 - distance(a, b).mean() / distance(a[:, None], b).mean()


def test_weighted_kappa_does_not_depend_on_the_scores_that_were_used():
    a, b = np.array([[1, 1, 2, 2, 5, 5, 5, 5], [1, 2, 2, 1, 5, 5, 5, 2.0]])
    assert cohen_kappa(a, b, "quadratic")[0] == pytest.approx(7 / 9)
    rng = np.random.default_rng(0)
    for allowed in ([1, 5], [2, 3, 5], [1, 2, 3, 4, 5]):
        a, b = rng.choice(allowed, (2, 40)).astype(float)
        expected = kappa_by_formula(a, b, lambda x, y: (x - y) ** 2)
        assert cohen_kappa(a, b, "quadratic")[0] == pytest.approx(expected)


def test_kappas_agree_with_their_formula_and_with_each_other():
    "For two readers with the same shares of answers, both kappas are one number."
    rng = np.random.default_rng(1)
    a = rng.permutation([0, 1] * 20)
    b = np.where(rng.random(40) < 0.3, rng.permutation(a), a)
    names = {0: "real", 1: "generated"}
    rows = [
        dict(reader=reader, item=f"{i:02d}", answer=names[v], score=np.nan)
        for reader, values in (("a", a), ("b", b))
        for i, v in enumerate(values)
    ]
    found = agreement(pd.DataFrame(rows))
    assert found.pairs[0].kappa == pytest.approx(kappa_by_formula(a, b, np.not_equal))
    assert found.fleiss == pytest.approx(found.pairs[0].kappa, abs=0.02)
    assert fleiss_kappa(np.array([[1, 1]] * 10)) == pytest.approx(-1)


def test_permutation_allows_for_open_images_and_one_sided_answers():
    truth = np.repeat([0.0, 1.0], 10)
    said = np.tile(truth[:, None], (1, 2))
    said[3, 0] = np.nan
    assert permutation_p(truth, said, 999) < 0.01
    assert permutation_p(truth, np.ones((20, 1)), 999) == 1.0


def test_intervals_of_the_mean_accuracy_near_its_ends():
    "They neither shrink to a point nor count more answers than there are."
    truth = np.repeat([0.0, 1.0], 10)
    right = np.tile(truth[:, None], (1, 3))
    for said, share in ((right, 1.0), (1 - right, 0.0)):
        e = accuracy_estimate(truth, said, 200)
        assert (e.value, e.low, e.high) == pytest.approx((share, *wilson(share, 20)))
    said = right.copy()
    said[[0, 5, 10], [0, 1, 2]] = 1 - said[[0, 5, 10], [0, 1, 2]]  # errors on three images, one of each reader
    e = accuracy_estimate(truth, said, 200)
    low, high = wilson(57 / 60, 60)
    assert e.low <= low + 1e-9 and e.high >= high - 1e-9
    same = right.copy()
    same[[0, 10]] = 1 - same[[0, 10]]  # of all readers on the same images: as one reader
    e, one = accuracy_estimate(truth, same, 5000), wilson(0.9, 20)
    assert (e.low, e.high) == pytest.approx(one, abs=0.02)


def test_draws_without_an_answer_raise_no_warning():
    truth, said = np.repeat([0.0, 1.0], 5), np.full((10, 2), np.nan)
    said[0] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        e = accuracy_estimate(truth, said, 500)
    assert e.value == 1 and e.low < 0.5


def test_a_lenient_reader_does_not_change_the_difference_of_caption_scores():
    rows = [("lenient", i, kind, 5.0) for i, kind in enumerate(["real"] * 9 + ["generated"])]
    rows += [("strict", i + 10, kind, 2.0) for i, kind in enumerate(["real"] + ["generated"] * 9)]
    rows += [("one-sided", 0, "real", 1.0)]
    scores = pd.DataFrame(rows, columns=["reader", "item", "truth", "score"])
    found = caption_scores(scores, 200)
    assert (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.real.value == found.generated.value == 3.5 and found.readers == 2
    assert (found.real.images, found.generated.images) == (10, 10)
    assert caption_scores(scores[scores.reader == "one-sided"], 200) is None


@pytest.mark.parametrize("side", ["real", "fake"])
def test_a_study_among_its_images_is_refused(sides, side):
    cfg = StudyConfig(*sides, n=10, out=getattr(StudyConfig(*sides), side) / "study")
    with pytest.raises(ConfigError, match="lies among the images: choose a folder outside"):
        build_study(cfg)
