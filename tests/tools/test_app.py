"""The page as its visitors meet it: a browser that types, draws and downloads, and two hundred requests in a row."""

import importlib.util
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from helpers import free_port, needs_browser

pytestmark = pytest.mark.soak
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="gradio is an optional extra: pip install -e '.[app]'"
)


def start(run_dir, folder):
    "`radgen app` in a process of its own, that is given its command in `folder`: the process, its address and its log."
    port, log = free_port(), folder / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "radgen"), "app", str(run_dir), "--port", str(port), "--device", "cpu"],
            stderr=out,
            stdout=out,
            cwd=folder,
        )
    deadline = time.time() + 240
    while f"http://127.0.0.1:{port}" not in log.read_text():
        if process.poll() is not None or time.time() > deadline:
            process.kill()
            pytest.fail(log.read_text()[-3000:])
        time.sleep(0.2)
    return process, f"http://127.0.0.1:{port}", log


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    "A page for all tests of this file: its address and its process."
    process, url, log = start(run.dir, tmp_path_factory.mktemp("app"))
    try:
        yield url, process
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0 and "Traceback" not in log.read_text(), log.read_text()[-3000:]
        assert not list((run.dir / "app").iterdir()) and [p.name for p in log.parent.iterdir()] == [
            "log.txt"
        ]  # nothing is left, neither in the run nor where the command was given
    finally:
        process.kill()


@pytest.fixture
def visit(browser, server):
    "Open the page, as many times as wanted; whatever the browser asks of other machines is remembered."
    opened, elsewhere = [], []

    def go(**size):
        context = browser.new_context(viewport=size or None)
        page = context.new_page()
        page.on(
            "request", lambda r: None if r.url.startswith((server[0], "data:", "blob:")) else elsewhere.append(r.url)
        )
        page.goto(server[0])
        typed_into(page).wait_for()
        opened.append(context)
        return page

    yield go
    for context in opened:
        context.close()
    assert not elsewhere


def clear(page):
    return page.get_by_role("button", name="Clear", exact=True)


def typed_into(page):
    return page.get_by_role("textbox", name=re.compile("^Caption"))


def ask(page, caption, **numbers):
    "Type a caption without concepts, set numbers by their labels, and wait for what the model will read."
    if clear(page).count():
        clear(page).click()
    typed_into(page).fill(caption)
    for label, value in {"Steps": 2, **numbers}.items():
        page.get_by_role("spinbutton", name=label).fill(str(value))
    page.keyboard.press("Tab")


def pictures(page, n, gallery="generated"):
    "Wait for `n` pictures."
    images = f"document.querySelectorAll('#{gallery} .thumbnail-item img')"
    page.wait_for_function(f"{images}.length == {n}", timeout=90_000)


def read(page):
    "What the model reads."
    return page.get_by_label("What the model reads").input_value()


@needs_gradio
@needs_browser
def test_type_draw_and_download(visit, tmp_path):
    page = visit(width=1300, height=1000)
    ask(page, "Axial CT of the head, 63-year-old man: left subdural haematoma!!", Images=3, Seed=11)
    page.get_by_role("button", name="Draw", exact=True).click()
    pictures(page, 3)
    assert read(page) == "Computed tomography, Head, Axial view, Left subdural haematoma"
    page.wait_for_function("document.querySelectorAll('#nearest .thumbnail-item img').length == 3")
    page.get_by_role("grid", name="Dataframe").get_by_text("Plain x-ray").wait_for()
    page.locator("#generated .thumbnail-item").nth(1).click()
    with page.expect_download() as d:
        page.locator("#generated").get_by_label("Download").first.click()
    d.value.save_as(tmp_path / "picture.png")
    im = Image.open(tmp_path / "picture.png")
    assert im.size == (16, 16) and (im.text["prompt"], im.text["seed"], im.text["index"], im.text["synthetic"]) == (
        read(page),
        "11",
        "1",
        "true",
    )
    page.screenshot(path=tmp_path / "page.png")
    assert np.asarray(Image.open(tmp_path / "page.png").convert("L")).std() > 10


@needs_gradio
@needs_browser
def test_an_empty_caption_is_a_sentence_and_the_page_goes_on(visit):
    page = visit()
    ask(page, "   ", Images=1)
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("the prompt is empty").first.wait_for()
    ask(page, "<script>document.title='owned'</script> ultrasound of the abdomen", Images=1)
    page.get_by_role("button", name="Draw", exact=True).click()
    pictures(page, 1)
    assert "radgen" in page.title() and read(page).startswith("Ultrasonography, Abdomen")


@needs_gradio
@needs_browser
def test_two_visitors_at_once_get_their_own(visit):
    pages = [visit(), visit()]
    for page, caption in zip(pages, ("CT of the head", "X-ray of the chest")):
        ask(page, caption, Images=2, Steps=10)
    for page in pages:
        page.get_by_role("button", name="Draw", exact=True).click()
    for page, kind in zip(pages, ("Computed tomography, Head", "X-ray, Chest")):
        pictures(page, 2)
        assert read(page).startswith(kind)
    addresses = [page.locator("#generated .thumbnail-item img").first.get_attribute("src") for page in pages]
    assert addresses[0] != addresses[1]


@needs_gradio
@needs_browser
def test_a_page_that_is_reloaded_in_the_middle_draws_again(visit):
    page = visit()
    ask(page, "CT of the head", Images=16, Steps=200)
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("drawing").first.wait_for()
    page.reload()
    typed_into(page).wait_for()
    ask(page, "X-ray of the chest", Images=1)
    page.get_by_role("button", name="Draw", exact=True).click()
    pictures(page, 1)


@needs_gradio
@needs_browser
def test_by_keyboard_on_a_phone(visit):
    page = visit(width=390, height=844)
    ask(page, "MRI of the brain", Images=1)
    typed_into(page).focus()
    page.keyboard.press("Shift+Enter")
    pictures(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@needs_gradio
@needs_browser
def test_a_long_caption_is_cut_and_the_page_says_so(visit):
    page = visit()
    note = page.locator("#note")
    assert "cut" not in note.inner_text()
    page.get_by_label("Bring the caption into the form").uncheck()
    ask(page, "lung " * 100, Images=1)
    note.get_by_text("the prompt has 102 tokens and the text encoder reads 64: the last 38 are cut").wait_for()
    page.get_by_role("button", name="Draw", exact=True).click()
    pictures(page, 1)
    assert "102 tokens" in note.inner_text()
    ask(page, "lung", Images=1)
    page.wait_for_function("!document.querySelector('#note')?.innerText.includes('tokens')")


@needs_gradio
@needs_browser
def test_the_edit_tab_says_what_is_missing(visit):
    page = visit(width=1300, height=1200)
    page.get_by_role("tab", name="Edit").click()
    page.get_by_role("textbox", name="What it should show").fill("Axial CT of the head, left mass")
    page.get_by_role("button", name="Change", exact=True).click()
    page.get_by_text("there is no image: upload one").first.wait_for()


@needs_gradio
@needs_browser
def test_an_image_is_chosen_brushed_and_changed(visit, tmp_path):
    Image.fromarray(np.full((64, 64), 90, np.uint8)).save(tmp_path / "given.png")
    page = visit(width=1300, height=1300)
    page.get_by_role("tab", name="Edit").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Upload an image").click()
    chooser.value.set_files(tmp_path / "given.png")
    page.get_by_text("Upload an image").wait_for(state="hidden")
    page.get_by_label("Inside the mask").click()
    page.get_by_role("textbox", name="What it should show").fill("Axial CT of the head, left mass")
    for label in ("Images", "Steps"):
        page.get_by_role("spinbutton", name=label).locator("visible=true").fill("2")
    box = page.locator("canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 30, steps=5)
    page.mouse.up()
    page.wait_for_timeout(1000)  # the editor sends what was brushed
    page.get_by_role("button", name="Change", exact=True).click()
    pictures(page, 2, "changed")


@needs_gradio
def test_an_uploaded_image_is_changed(server, tmp_path):
    "As the editor sends it: the image and its layers, in which the brush leaves what is opaque."
    from gradio_client import Client, handle_file

    client = Client(server[0], verbose=False, download_files=tmp_path)
    Image.fromarray(np.full((40, 60, 4), 90, np.uint8)).save(tmp_path / "given.png")
    painted = np.zeros((40, 60, 4), np.uint8)
    painted[:, 30:, 3] = 255
    Image.fromarray(painted).save(tmp_path / "layer.png")
    image, layer = (handle_file(str(tmp_path / name)) for name in ("given.png", "layer.png"))
    texts, numbers = ("CT of the head", "CT of the head, left mass", True), (1.0, 2, 2.0, 2, 7)

    def change(layers, way):
        "The first result of a way."
        drawn = {"background": image, "layers": layers, "composite": None}
        found = client.predict(drawn, way, *texts, *numbers, api_name="/change")
        assert len(found) == 2
        return Image.open(found[0]["image"])

    inside = change([layer], "Inside the mask")
    pixels = np.asarray(inside)
    assert pixels.shape == (16, 16) and len(np.unique(pixels[:, :8])) == 1 < len(np.unique(pixels[:, 8:]))
    assert change([], "From one prompt to another").text["from_prompt"].startswith("Computed tomography, Head")
    with pytest.raises(Exception, match="there is no mask"):
        change([], "Inside the mask")


@needs_gradio
@needs_browser
def test_page_of_a_finished_model_without_its_data(run, browser, tmp_path):
    "Images are made, nothing is compared, and the page says why."
    model = shutil.copytree(run.final(), tmp_path / "elsewhere" / "model")
    process, url, log = start(model, tmp_path)
    context = browser.new_context(viewport=dict(width=1300, height=1000))
    try:
        page = context.new_page()
        page.goto(url)
        typed_into(page).wait_for()
        page.get_by_text("The training data of this model are not on this machine").wait_for()
        assert not page.locator("#nearest").is_visible()
        ask(page, "Axial CT of the head: left subdural haematoma", Images=2)
        page.get_by_role("button", name="Draw", exact=True).click()
        pictures(page, 2)
        assert read(page).startswith("Computed tomography, Head")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "Traceback" not in log.read_text()
    finally:
        context.close()
        process.kill()
    assert not list((model.with_name("model-output") / "app").iterdir())
    assert sorted(p.name for p in model.iterdir()) == sorted(p.name for p in run.final().iterdir())


def memory(pid):
    return psutil.Process(pid).memory_info().rss / 2**20  # MiB


@needs_gradio
def test_no_way_past_the_queue_and_no_large_upload(server):
    import httpx

    url = server[0] + "/gradio_api"

    def ask(how, path, **kw):
        "The status of a request."
        return httpx.request(how, url + path, timeout=30, **kw).status_code

    assert ask("GET", "/info") == 200
    for name in ("/run/draw", "/api/draw", "/run/read", "/run/change"):
        assert ask("POST", name, json=dict(data=["CT", [], True, 16, 2, 200, 0, "dpm++"])) in (404, 405)
    assert ask("POST", "/upload", files=dict(files=("a.png", b"0" * 22_000_000))) >= 400
    assert ask("GET", "/run-history/runs") in (404, 405)
    for path in ("/file=/etc/passwd", "/file=../config.json"):
        assert ask("GET", path) in (403, 404)
    assert ask("GET", "/info", headers=dict(Host="evil.example")) == 400


@needs_gradio
def test_ctrl_c_ends_a_page_that_is_drawing(run, tmp_path):
    from gradio_client import Client

    process, url, log = start(run.dir, tmp_path)
    try:
        job = Client(url, verbose=False, download_files=False).submit(
            "CT of the head", [], True, 16, 2, 200, 0, "dpm++", api_name="/draw"
        )
        while job.status().code.name != "PROCESSING" and not job.done():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert (
            process.wait(60) == 130
            and "interrupted" in log.read_text()
            and not list((run.dir / "app").glob(str(process.pid)))
        )
    finally:
        process.kill()


@needs_gradio
def test_two_hundred_requests_in_bounded_memory(server, run):
    from gradio_client import Client

    url, process = server
    client, used = Client(url, verbose=False, download_files=False), []
    for i in range(200):
        text, pictures, near, seen = client.predict("CT of the head", [], True, 1, 2, 1, i, "dpm++", api_name="/draw")
        assert (
            text.startswith("Computed tomography, Head")
            and len(pictures) == len(near) == 1
            and seen["headers"] == ["concept", "seen", "auroc"]
        )
        if i in (60, 199):
            used.append(memory(process.pid))
    assert used[1] - used[0] < 30, used  # MiB
    with pytest.raises(Exception, match="empty"):
        client.predict("", [], True, 1, 2, 1, 0, "dpm++", api_name="/draw")
    assert sum(p.stat().st_size for p in (run.dir / "app").rglob("*") if p.is_file()) < 2**22
