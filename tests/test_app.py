"""The web page, where gradio is installed: it listens on this machine alone and draws."""
import importlib.util, io

import pytest
import torch
from PIL import Image

from radgen.app import AppConfig, generate, make_page
from radgen.core import ConfigError
from radgen.diffusion import make_schedule
from radgen.encoders import TextEmbedding
from radgen.pipeline import RadGenPipeline
from radgen.runs import TrainConfig
from radgen.training import train
from radgen.unet import SIZES, UNet

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is an optional extra: pip install -e .[app]")

def test_default_address_is_loopback(): assert AppConfig("run").host == "127.0.0.1"

@pytest.fixture(scope="module")
def pipe():
    pipe = RadGenPipeline(UNet(sample_size=16, text_dim=24, block="paper", **SIZES["tiny"]).eval(), make_schedule())
    pipe.set_progress_bar_config(disable=True)
    pipe._encoder = lambda texts: TextEmbedding(torch.ones(len(texts), 3, 24), torch.ones(len(texts), 3).bool(), torch.ones(len(texts), 24))
    return pipe

def test_pictures_carry_the_request(pipe):
    images = generate(pipe, " head,\n CT ", n=2, guidance=0, steps=2, seed=5)
    assert [(im.size, im.info["prompt"], im.info["seed"], im.info["index"]) for im in images] == [((16, 16), "head, CT", "5", str(i)) for i in range(2)]

@pytest.mark.parametrize("wrong, says", [(dict(n=0), "images is 0"), (dict(n=17), "between 1 and 16"), (dict(n="4"), "images"), (dict(guidance=10.5), "between 0 and 10"), (dict(guidance=-1), "guidance"), (dict(guidance=float("nan")), "guidance"),
    (dict(steps=201), "between 1 and 200"), (dict(steps=0), "steps"), (dict(seed=None), "seed"), (dict(sampler="../etc"), "no sampler"), (dict(prompt=""), "empty"), (dict(prompt="x"*1001), "at most 1000"), (dict(prompt=["head"]*1000), "no text")], ids=lambda x: str(x)[:30])
def test_a_request_out_of_bounds_is_refused(pipe, wrong, says):
    with pytest.raises(ConfigError, match=says): generate(pipe, **{"prompt": "head", **wrong})

@needs_gradio
def test_page_draws(prepared, tmp_path):
    run = train(TrainConfig(prepared.dir, image_size=16, batch_size=4, size="tiny", encoder="minilm", steps=1, runs=tmp_path, name="r", device="cpu", preview_every=0))
    page = make_page(run)
    draw = next(iter(page.fns.values())).fn
    images = draw("ultrasonography, abdomen", 2, 1.0, 2, 0, "dpm++")
    assert len(images) == 2 and images[0].size == (16, 16) and images[0].info["synthetic"] == "true"
    data = importlib.import_module("gradio.processing_utils").encode_pil_to_bytes(images[0], "png") # what a visitor downloads
    assert Image.open(io.BytesIO(data)).text == images[0].info
