"""The page of a reader study in a browser, from the first image to the scores, with a reload and with two readers."""

import json
import re

import pandas as pd
import pytest

from helpers import needs_browser
from radgen.core.files import read_json
from radgen.evaluation.config import StudyConfig, StudyScoreConfig
from radgen.evaluation.reader_study import build_study
from radgen.evaluation.study_answers import read_answers, read_key
from radgen.evaluation.study_report import score_study

from evaluation_helpers import random_images, write_images

pytestmark = [pytest.mark.soak, needs_browser]
HOSTILE = "<script>document.title='owned'</script> <b>CT</b> \u2028 ünïcode"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    "A study of images that are larger than a phone."
    folder = tmp_path_factory.mktemp("large")
    sides = [write_images(folder / name, random_images(5, 512, seed)) for seed, name in enumerate(("real", "fake"))]
    return build_study(StudyConfig(*sides, n=10, out=folder / "out"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    "A study of ten images with captions that try to be HTML."
    folder = tmp_path_factory.mktemp("study")
    sides = []
    for seed, name in enumerate(("real", "fake")):
        side = write_images(folder / name, random_images(5, 32, seed))
        names = sorted(p.name for p in side.glob("*.png"))
        captions = [f"{HOSTILE} {name} {i}".replace("real", "a").replace("fake", "b") for i in range(5)]
        pd.DataFrame({"file_name": names, "text": captions}).to_csv(side / "metadata.csv", index=False)
        sides.append(side)
    return build_study(StudyConfig(*sides, n=10, out=folder / "out"))


@pytest.fixture
def visit(browser, study):
    "Open the page in a context of its own or in a given one; no request and no error may happen."
    contexts, faults = [], []

    def go(context=None, reader=None, before=None, of=study, **options):
        if context is None:
            context = browser.new_context(**options)
            contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else faults.append(r.url))
        page.on("pageerror", lambda e: faults.append(str(e)))
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        if before:
            page.add_init_script(before)
        page.goto(of["page"].resolve().as_uri())
        if reader:
            page.get_by_label("Your reader code").fill(reader)
            page.keyboard.press("Enter")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not faults


def place(page):
    return page.get_by_role("heading", level=1).first.inner_text()


def shown(page):
    "The image that is shown."
    return page.locator("#image").get_attribute("src")


def truths(study):
    "The truth of each image by its address in the page."
    items = read_json(study["folder"] / "key.json")["items"]
    text = study["page"].read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    return {item["image"]: (item["item"], items[item["item"]]["truth"]) for item in data["items"]}


def answer(page, key, score):
    page.keyboard.press(key)
    page.keyboard.press(str(score))


def read_on(page, study, wrong=False, n=10):
    "Answer images by keyboard, all correctly or all wrongly; the order in which they came."
    order = []
    for _ in range(n):
        item, truth = truths(study)[shown(page)]
        order.append(item)
        answer(page, "rg"[(truth == "generated") != wrong], 4)
        page.keyboard.press("ArrowRight")
    return order


def save(page, folder):
    with page.expect_download() as download:
        page.get_by_role("button", name="Save answers as a file").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def wait_until(page, expression):
    "Wait for a condition; `wait_for_function` would need `eval`, which the policy of the page forbids."
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(expression)


def pressed(page):
    return page.locator("button[aria-pressed=true]:not(#smooth)").all_inner_texts()


def test_from_the_first_image_to_the_scores(visit, study, tmp_path):
    "Two readers at once, one of whom loads the page again in the middle."
    a, b = visit(reader="Ann"), visit(reader="bob")
    assert place(a) == place(b) == "Image 1 of 10"
    first, other = read_on(a, study, n=4), read_on(b, study, wrong=True, n=7)
    answer(a, "g", 2)
    a.keyboard.press("c")
    a.keyboard.type("r 3 größer <b>?</b>")
    address = shown(a)
    a.reload()
    assert place(a) == "Image 5 of 10" and shown(a) == address
    assert "5 of 10 answered" in a.locator("#count").inner_text()
    assert a.get_by_label("Comment").input_value() == "r 3 größer <b>?</b>"
    assert [text[0] for text in pressed(a)] == ["G", "2"]
    assert "Going on as reader ann with 5 images answered." in a.locator("#said").inner_text()
    a.keyboard.press("ArrowLeft")
    assert place(a) == "Image 4 of 10" and len(pressed(a)) == 2
    a.keyboard.press("ArrowRight")
    first += read_on(a, study, n=6)
    other += read_on(b, study, wrong=True, n=3)
    assert place(a) == "End of the study" and "All 10 images are answered" in a.locator("#summary").inner_text()
    assert sorted(first) == sorted(other) and first != other
    files = (save(a, tmp_path), save(b, tmp_path))
    assert [p.name for p in files] == [f"answers-{study['study']}-{reader}.json" for reader in ("ann", "bob")]
    scores = score_study(StudyScoreConfig(study["folder"], files, repeats=100))
    assert [(r.reader, r.accuracy.count, r.scored) for r in scores.readers] == [("ann", 10, 10), ("bob", 0, 10)]
    assert scores.agreement.pairs[0].kappa == pytest.approx(-1)
    assert [c.comment for c in scores.comments] == ["r 3 größer <b>?</b>"]
    assert "owned" not in a.title()


def test_two_readers_in_one_browser_and_a_third_who_goes_on(visit, study, tmp_path):
    a = visit(reader="r1")
    b = visit(a.context, reader="r2")
    answer(a, "r", 1)
    answer(b, "g", 5)
    assert [text[0] for text in pressed(a)] == ["R", "1"] and [text[0] for text in pressed(b)] == ["G", "5"]
    again = visit(a.context, reader="r1")
    assert [text[0] for text in pressed(again)] == ["R", "1"]
    again.keyboard.press("3")  # seen by the other tab of this reader
    wait_until(a, "document.querySelector('[data-score=\"3\"]').getAttribute('aria-pressed') === 'true'")
    key = read_key(study["folder"])
    assert [x.score for x in read_answers(save(a, tmp_path), key).answers.values()] == [3]
    assert [x.score for x in read_answers(save(b, tmp_path), key).answers.values()] == [5]
    a.get_by_role("button", name="Another reader").click()
    a.get_by_label("Your reader code").fill("../x y")
    a.keyboard.press("Enter")
    assert "A code has 1 to 40 letters" in a.get_by_role("alert").inner_text()
    a.get_by_label("Your reader code").fill("r3")
    a.keyboard.press("Enter")
    assert pressed(a) == []


NO_STORAGE = """for (const name of ['localStorage', 'sessionStorage'])
  Object.defineProperty(window, name, {get() { throw new DOMException('no', 'SecurityError'); }});"""


def test_a_browser_that_keeps_nothing_says_so_and_the_answers_can_be_saved(visit, study, tmp_path):
    page = visit(reader="ann", before=NO_STORAGE)
    assert "does not keep answers" in page.locator("#keeping").inner_text()
    read_on(page, study, n=3)
    found = read_answers(save(page, tmp_path), read_key(study["folder"]))
    assert len(found.answers) == 3


def test_closing_with_unsaved_answers_asks_first(visit, tmp_path):
    page = visit(reader="ann")
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.get_by_role("button", name="Real", exact=False).click()
    page.reload()
    assert asked == ["beforeunload"]
    save(page, tmp_path)
    page.reload()
    assert asked == ["beforeunload"]


@pytest.mark.parametrize("width, scheme", [(1300, "light"), (400, "dark")])
def test_sizes_dark_mode_and_names_of_controls(visit, width, scheme):
    page = visit(reader="ann", viewport={"width": width, "height": 850}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    image = page.locator("#image").bounding_box()
    assert image["width"] % 32 == 0 and image["width"] == image["height"] <= width
    assert page.evaluate("getComputedStyle(document.getElementById('image')).imageRendering") == "pixelated"
    page.keyboard.press("s")
    assert page.evaluate("getComputedStyle(document.getElementById('image')).imageRendering") == "auto"
    page.keyboard.press("-")
    assert page.locator("#image").bounding_box()["width"] == image["width"] - 32
    assert page.get_by_role("button", name="5, completely").count() == 1
    assert page.get_by_role("progressbar", name="images answered").count() == 1
    assert HOSTILE.split(" \u2028")[0] in page.locator("#caption").inner_text()
    page.get_by_role("button", name="Next").focus()
    page.keyboard.press("Enter")
    assert place(page) == "Image 2 of 10"


def scale(page):
    return page.locator("#scale").inner_text()


def test_a_large_image_fits_a_phone_and_can_be_enlarged_and_moved(visit, large):
    page = visit(reader="ann", of=large, viewport={"width": 400, "height": 850})
    image, frame = page.locator("#image"), page.locator("#frame")
    assert image.bounding_box()["width"] <= frame.bounding_box()["width"] <= 400
    assert re.fullmatch(r"[67]\d %", scale(page)) and page.locator("#smaller").is_disabled()
    rendering = "getComputedStyle(document.getElementById('image')).imageRendering"
    assert page.evaluate(rendering) == "auto"
    page.keyboard.press("+")
    assert scale(page) == "1 ×" and image.bounding_box()["width"] == 512
    assert page.evaluate(rendering) == "pixelated"
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    frame.focus()
    page.keyboard.press("ArrowRight")
    wait_until(page, "document.getElementById('frame').scrollLeft > 0")
    assert place(page) == "Image 1 of 10"
    page.keyboard.press("-")
    assert scale(page).endswith("%")
    page.keyboard.press("ArrowRight")  # nothing to move
    assert place(page) == "Image 2 of 10"


def test_another_reader_asks_where_answers_are_not_saved(visit, tmp_path):
    page, asked = visit(reader="ann"), []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.keyboard.press("r")
    page.get_by_role("button", name="Another reader").click()
    assert place(page) == "Image 1 of 10" and "stay in this browser under this reader code" in asked[0]
    save(page, tmp_path)
    page.get_by_role("button", name="Another reader").click()
    assert page.get_by_label("Your reader code").is_visible() and len(asked) == 1
    page = visit(reader="ann", before=NO_STORAGE)
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.keyboard.press("r")
    page.get_by_role("button", name="Another reader").click()
    assert "They will be lost" in asked[1]


def test_a_page_from_the_history_has_the_answers_of_the_storage(visit, study, tmp_path):
    "Without an event: such a page slept while another one was used. What storage lost is kept, too."
    page = visit(reader="ann")
    answer(page, "r", 1)
    prefix = f"radgen-study:{study['study']}:ann:"
    write = "([key, value]) => localStorage.setItem(key, value)"
    shown_item = truths(study)[shown(page)][0]
    other = next(item for item, _ in truths(study).values() if item != shown_item)
    later = {"answer": "generated", "score": 5, "seconds": 3, "comment": "later"}
    page.evaluate(write, [prefix + shown_item, json.dumps(later)])
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    assert [text[0] for text in pressed(page)] == ["G", "5"]
    page.evaluate(write, [prefix + other, json.dumps(later)])
    page.evaluate("key => localStorage.removeItem(key)", prefix + shown_item)
    found = read_answers(save(page, tmp_path), read_key(study["folder"])).answers
    assert {item: a.comment for item, a in found.items()} == {shown_item: "later", other: "later"}
    assert "2 of 10 answered" in page.locator("#count").inner_text()


def test_keys_of_other_layouts_and_held_keys(visit):
    page = visit(reader="ann")
    assert page.evaluate("document.activeElement.id") == "title"

    def press(key, code, **more):
        event = json.dumps({"key": key, "code": code, "bubbles": True, **more})
        page.evaluate(f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {event}))")
        return [text[0] for text in pressed(page)]

    assert press("к", "KeyR") == ["R"]
    assert press("γ", "KeyG") == ["G"]
    assert press("&", "Digit1") == ["G", "1"]  # AZERTY
    assert press("é", "Digit2") == ["G", "2"]
    assert press("!", "Digit1", shiftKey=True) == ["G", "2"]
    assert press("p", "KeyR") == ["G", "2"]  # Dvorak: the letter counts
    before = scale(page)
    press("-", "Digit6")
    assert scale(page) != before
    press("ArrowRight", "ArrowRight", repeat=True)
    assert place(page) == "Image 1 of 10"
    press("ArrowRight", "ArrowRight")
    assert place(page) == "Image 2 of 10"
