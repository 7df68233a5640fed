"A pipeline of diffusers draws into the same kind of folder as a run, and evaluation takes it; bad folders are refused."

import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

from radgen.cli import main
from radgen.core.devices import index_generator
from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json, write_json
from radgen.core.pipelines import tiny_pipeline
from radgen.evaluation.image_sets import list_images
from radgen.training.config import SampleConfig
from radgen.training.other_pipelines import lora_file, open_other
from radgen.training.sampling import sample
from radgen.training.unfinished import Unfinished


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "A pipeline with random weights; not to be changed."
    return tiny_pipeline(tmp_path_factory.mktemp("base") / "tiny", skip_prk_steps=True)


@pytest.fixture
def request_of(base, small, tmp_path):
    "A function that makes a request of one step."
    fixed = {"pipeline": str(base), "data": small.dir, "steps": 1, "device": "cpu", "out": tmp_path / "drawn"}
    return lambda **options: SampleConfig(**fixed | options)


def pixels(path):
    return np.asarray(Image.open(path), int)


def test_folder_has_the_captions_of_the_split_and_its_provenance(request_of, small, base):
    out = sample(request_of(n=3))
    table, record = pd.read_csv(out / "samples.csv"), read_json(out / "sample.json")
    assert table.prompt.tolist() == [" ".join(text.split()) for text in small.texts("test", 0)[:3]]
    assert table.id.tolist() == small.rows("test").id.tolist()[:3]
    assert (record["model"], record["recipe"], record["image_size"]) == ("tiny", "StableDiffusionPipeline", 16)
    assert record["weights"] == open_other(str(base)).digest()
    image = Image.open(out / "000002.png")
    assert (image.mode, image.size) == ("L", (16, 16))
    assert image.text["model"] == record["weights"]
    assert image.text["prompt"] == table.prompt[2]
    rows, tables = list_images(out)
    assert (rows.prompt != "").all() and rows.id.tolist() == table.id.tolist()
    assert tables == [str(out / "samples.csv")]


def test_pixels_are_the_mean_of_the_channels_that_diffusers_draws(request_of, base):
    out = sample(request_of(prompts=("head", "chest"), guidance=3.0, steps=2))
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    generators = [index_generator(0, i) for i in range(2)]
    options = dict(num_inference_steps=2, guidance_scale=3.0, generator=generators)
    expected = [np.asarray(im.convert("RGB"), float).mean(2) for im in pipe(["head", "chest"], **options).images]
    for i in range(2):
        assert np.abs(pixels(out / f"{i:06d}.png") - expected[i]).max() <= 0.5


def test_captions_of_colour_images_are_drawn_in_colour(request_of, colour, base):
    out = sample(request_of(data=colour.dir, n=1, guidance=3.0))
    image = Image.open(out / "000000.png")
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    options = dict(num_inference_steps=1, guidance_scale=3.0, generator=[index_generator(0, 0)])
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(pipe([image.text["prompt"]], **options).images[0]))


def test_stopped_request_goes_on_and_batches_change_nothing(request_of, tmp_path, monkeypatch):
    import radgen.training.other_pipelines as module

    whole = sample(request_of(n=5, batch_size=5, out=tmp_path / "whole"))
    real, calls = module.draw_other, []

    def draw(*args):
        calls.append(args[-1])
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(module, "draw_other", draw)
    with pytest.raises(KeyboardInterrupt):
        sample(request_of(n=5, batch_size=2))
    assert Unfinished(tmp_path / "drawn").drawn() == {0, 1, 2, 3}
    out = sample(request_of(n=5, batch_size=2))
    assert calls == [[0, 1], [2, 3], [4]]
    for i in range(5):
        assert np.abs(pixels(out / f"{i:06d}.png") - pixels(whole / f"{i:06d}.png")).max() <= 1


def test_lora_changes_images_and_fingerprint(request_of, base, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    layers = get_peft_model_state_dict(pipe.unet)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "lora", unet_lora_layers={k: 20 * v for k, v in layers.items()}
    )
    plain = sample(request_of(n=1))
    adapted = sample(request_of(n=1, lora=tmp_path / "lora", out=tmp_path / "adapted"))
    assert (pixels(plain / "000000.png") != pixels(adapted / "000000.png")).any()
    records = [read_json(folder / "sample.json") for folder in (plain, adapted)]
    assert records[0]["fingerprint"] != records[1]["fingerprint"]
    save_file({"a": torch.zeros(1)}, tmp_path / "lora" / "other.safetensors")
    assert lora_file(tmp_path / "lora").name == "pytorch_lora_weights.safetensors"
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="not one file of LoRA weights"):
        lora_file(tmp_path / "weights.bin")
    with pytest.raises(DataError, match="could not be loaded"):
        sample(request_of(n=1, lora=tmp_path / "lora" / "other.safetensors", out=tmp_path / "wrong"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"_class_name": "RadGenPipeline"}, "give it as --run"),
        ({"_class_name": "Popen"}, "no pipeline of diffusers"),
        ({"_class_name": ["custom.py", "Custom"]}, "no pipeline of diffusers"),
        ({"_class_name": "StableDiffusionImg2ImgPipeline"}, "generate images from text alone"),
        ({"unet": ["os", "system"]}, "supported are diffusers and transformers"),
        ({"../unet": ["diffusers", "UNet2DConditionModel"]}, "as its ../unet"),
    ],
    ids=str,
)
def test_folder_that_names_other_code_is_refused(base, tmp_path, change, message):
    folder = shutil.copytree(base, tmp_path / "wrong")
    write_json(folder / "model_index.json", read_json(base / "model_index.json") | change)
    with pytest.raises(DataError, match=message):
        open_other(str(folder))


def test_pickled_weights_are_refused_and_safety_checkers_are_off(request_of, base, tmp_path, capsys):
    folder = shutil.copytree(base, tmp_path / "pickle")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(DataError, match="never loaded"):
        sample(request_of(pipeline=str(folder)))
    named = shutil.copytree(base, tmp_path / "checked")
    index = read_json(base / "model_index.json")
    checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    write_json(named / "model_index.json", index | checker)
    sample(request_of(n=1, pipeline=str(named)))
    assert "safety checker of the pipeline is off" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(run="runs/first"), "either --run or --pipeline"),
        (dict(pipeline=None), "either --run or --pipeline"),
        (dict(pipeline=None, run="runs/first", data=None, image_size=8), "--image-size belongs to --pipeline"),
        (dict(sampler="ddim"), "--sampler belongs to --run"),
        (dict(guidance=0.0), "no guidance below 1"),
        (dict(data=None), "--pipeline needs captions"),
        (dict(image_size=17), "the pipeline does not take this request"),
    ],
    ids=str,
)
def test_contradicting_options_are_refused(request_of, options, message):
    with pytest.raises(ConfigError, match=message):
        sample(request_of(**options))


def test_command_draws_another_size(base, tmp_path):
    args = ["sample", "--pipeline", str(base), "--prompts", "head", "--image-size", "32", "--steps", "1"]
    assert main([*args, "--device", "cpu", "--out", str(tmp_path / "a")]) == 0
    assert Image.open(tmp_path / "a" / "000000.png").size == (32, 32)
