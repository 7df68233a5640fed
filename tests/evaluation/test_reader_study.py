"""A reader study: nothing but the image tells real from generated, bad files are refused, and the scores are right."""

import io
import json
import os
import re
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from radgen.cli import main
from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json, write_json
from radgen.evaluation.config import StudyConfig, StudyScoreConfig
from radgen.evaluation.reader_study import build_study
from radgen.evaluation.study_answers import Answer, read_answers, read_key, write_answers
from radgen.evaluation.study_design import critical_count, detectable_accuracy
from radgen.evaluation.study_images import draw_images, matching_mode, read_side
from radgen.evaluation.study_report import score_study, scores_text, verdict
from radgen.evaluation.study_statistics import agreement, fleiss_kappa, permutation_p

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


def samples_of(folder, prepared, mode, n):
    "Noise as samples for test captions of a prepared folder."
    rows = prepared.rows("test").iloc[:n]
    write_images(folder, random_images(n, 24, 5))
    for i in range(n):
        (folder / f"{i:03d}.png").rename(folder / f"{i:06d}.png")
    (folder / "grid.png").write_bytes(b"no image of the study")
    table = {"index": range(n), "id": rows.id, "prompt": prepared.texts("test", mode)[:n], "seed": 0}
    pd.DataFrame(table).to_csv(folder / "samples.csv", index=False)
    return folder


def test_prepared_folder_and_samples_of_a_run(few, tmp_path):
    "The caption mode is that of the samples, and no caption is shown with both a real and a generated image."
    (tmp_path / "run" / "samples").mkdir(parents=True)
    samples = samples_of(tmp_path / "run" / "samples" / "test-0", few, 3, 20)
    cfg = StudyConfig(few.dir, tmp_path / "run", n=30)
    fake = read_side("--fake", cfg.fake, cfg)
    assert matching_mode(few, "test", fake.table) == 3
    drawn, size, remarks = draw_images(cfg)
    assert size == 24
    assert len({d.id for d in drawn}) == 30
    texts = dict(zip(few.rows("test").id, few.texts("test", 3)))
    assert all(texts[d.id] == d.caption for d in drawn)
    assert {os.path.dirname(d.image) for d in drawn if d.truth == "generated"} == {str(samples)}
    assert any("sharpness" in remark for remark in remarks)


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
    assert str(path) in str(e.value) and len(str(e.value).splitlines()) == 1


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


def test_kappas_agree_with_scikit_learn_and_with_each_other():
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
    assert found.pairs[0].kappa == pytest.approx(cohen_kappa_score(a, b))
    assert found.fleiss == pytest.approx(found.pairs[0].kappa, abs=0.02)
    assert fleiss_kappa(np.array([[1, 1]] * 10)) == pytest.approx(-1)


def test_permutation_allows_for_open_images_and_one_sided_answers():
    truth = np.repeat([0.0, 1.0], 10)
    said = np.tile(truth[:, None], (1, 2))
    said[3, 0] = np.nan
    assert permutation_p(truth, said, 999) < 0.01
    assert permutation_p(truth, np.ones((20, 1)), 999) == 1.0
