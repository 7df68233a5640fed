"""The web page, where gradio is installed: it listens on this machine alone and draws."""
import importlib.util

import pytest

from radgen.app import AppConfig, make_page
from radgen.runs import TrainConfig
from radgen.training import train

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is an optional extra: pip install -e .[app]")

def test_default_address_is_loopback(): assert AppConfig("run").host == "127.0.0.1"

@needs_gradio
def test_page_draws(prepared, tmp_path):
    run = train(TrainConfig(prepared.dir, image_size=16, batch_size=4, size="tiny", encoder="minilm", steps=1, runs=tmp_path, name="r", device="cpu", preview_every=0))
    page = make_page(run)
    draw = next(iter(page.fns.values())).fn
    images = draw("ultrasonography, abdomen", 2, 1.0, 2, 0, "dpm++")
    assert len(images) == 2 and images[0].shape == (16, 16)
