"""The pipeline: repeatable images, labelled files, and folders that must not be trusted."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import diffusers.utils.hub_utils as hub
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from huggingface_hub import ModelCard
from PIL import Image

import radgen.diffusion.generation as G
import radgen.diffusion.parts as parts
import radgen.diffusion.pipeline as P
import radgen.diffusion.saved as S
from radgen.core.errors import ConfigError, DataError
from radgen.diffusion.process import make_schedule
from radgen.diffusion.config import samplers_for
from radgen.text.embedding import TextEmbedding
from radgen.diffusion.card import model_card, save_png
from radgen.diffusion.pipeline import CutPromptWarning, RadGenPipeline, update_card
from radgen.networks.unet import SIZES, UNet
from radgen.networks.vgg_unet import VGG16UNet

D = 24  # width of the vectors, so that no text encoder is needed


def tiny(prediction="v_prediction", **options):
    torch.manual_seed(0)
    pipe = RadGenPipeline(
        UNet(sample_size=16, text_dim=D, block="paper", **SIZES["tiny"]).eval(),
        make_schedule(prediction),
        **options,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def vectors(n, length=5):
    g = torch.Generator().manual_seed(n)
    return TextEmbedding(
        torch.randn(n, length, D, generator=g), torch.ones(n, length).bool(), torch.randn(n, D, generator=g)
    )


class BytesEncoder:
    "An encoder whose vectors are a function of the text's bytes; it notes what it encodes, and where it was moved."

    max_length = 8  # words

    def __init__(self):
        self.seen, self.moved = [], []

    def __call__(self, texts):
        self.seen.append(list(texts))
        rows = [vectors(sum(t.encode()) % 1000 + 1)[:1] for t in texts]
        return TextEmbedding(*(torch.cat(x) for x in zip(*rows)))

    def lengths(self, texts):
        return [len(text.split()) for text in texts]

    def to(self, device):
        self.moved.append(device)
        return self


def with_encoder(pipe):
    "The pipeline with an encoder that needs no weights."
    pipe._encoder = BytesEncoder()
    pipe.seen = pipe._encoder.seen
    return pipe


@pytest.fixture(scope="module")
def pipe():
    "A pipeline whose encoder notes what it encodes."
    return with_encoder(tiny())


@pytest.fixture()
def folder(tmp_path):
    tiny(about={"name": "tiny"}).save_pretrained(tmp_path / "final")
    return tmp_path / "final"


def pixels(pipe, *args, **kw):
    return pipe(*args, output_type="pt", **{"num_inference_steps": 4, "seed": 3, **kw}).images.int()


def apart(a, b):
    return (a - b).abs().max().item()


QUICK = "dpm++"  # in `make test`
SAMPLERS = [
    pytest.param(name, marks=() if name == QUICK else pytest.mark.soak) for name in samplers_for("v_prediction")
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_image_depends_on_seed_and_index_alone(pipe, sampler):
    e = vectors(5)
    full = pixels(pipe, prompt_embeds=e, sampler=sampler)
    assert torch.equal(pixels(pipe, prompt_embeds=e, sampler=sampler), full)
    for size in (1, 3):
        assert apart(pixels(pipe, prompt_embeds=e, sampler=sampler, batch_size=size), full) <= 1
    some = [4, 1]
    assert apart(pixels(pipe, prompt_embeds=e[some], indices=some, sampler=sampler), full[some]) <= 1
    halves = [
        pixels(pipe, prompt_embeds=e[r], indices=r, sampler=sampler) for r in ([0, 2, 4], [1, 3])
    ]  # as two processes share them
    assert apart(halves[0], full[0::2]) <= 1 and apart(halves[1], full[1::2]) <= 1
    assert apart(pixels(pipe, prompt_embeds=e, sampler=sampler, seed=4), full) > 5
    assert apart(pixels(pipe, prompt_embeds=e, sampler=sampler, indices=[5, 6, 7, 8, 9]), full) > 5


def test_the_global_generator_is_not_read(pipe):
    e = vectors(2)
    torch.manual_seed(1)
    a = pixels(pipe, prompt_embeds=e, sampler="ddpm")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    b = pixels(pipe, prompt_embeds=e, sampler="ddpm")
    assert torch.equal(a, b) and torch.equal(torch.get_rng_state(), state)


def test_noise_is_drawn_on_the_cpu_in_32_bits():
    "A network of 16 bits starts from the same noise as one of 32."
    pipe, starts = tiny(), []
    real = G.randn_tensor

    def watched(shape, **kw):
        starts.append((real(shape, **kw), {g.device.type for g in kw["generator"]}))
        return starts[-1][0]

    with pytest.MonkeyPatch.context() as m:
        m.setattr(G, "randn_tensor", watched)
        pixels(pipe, prompt_embeds=vectors(2))
        pixels(pipe.to(torch.bfloat16), prompt_embeds=vectors(2))
    (a, devices), (b, _) = starts
    assert devices == {"cpu"} and a.dtype == b.dtype == torch.float32 and torch.equal(a, b)


@pytest.mark.parametrize("sampler", samplers_for("v_prediction"))
def test_one_step_draws(pipe, sampler):
    assert pixels(pipe, "head", sampler=sampler, num_inference_steps=1).float().std() > 0


def test_output_and_order_of_pictures(pipe):
    out = pipe(
        ["head", "chest"],
        num_images_per_prompt=2,
        num_inference_steps=2,
        negative_prompt=["bright", "dark"],
        guidance_interval=(0.2, 0.8),
        guidance_rescale=0.5,
        guidance_scale=2.5,
    )
    assert isinstance(out, ImagePipelineOutput) and all(im.mode == "L" and im.size == (16, 16) for im in out.images)
    assert [(im.info["prompt"], im.info["negative_prompt"], im.info["index"]) for im in out.images] == [
        ("head", "bright", "0"),
        ("head", "bright", "1"),
        ("chest", "dark", "2"),
        ("chest", "dark", "3"),
    ]
    told = out.images[0].info
    assert (
        told["guidance"],
        told["guidance_interval"],
        told["guidance_rescale"],
        told["steps"],
        told["sampler"],
        told["synthetic"],
    ) == ("2.5", "0.2 to 0.8", "0.5", "2", "dpm++", "true")
    assert (
        told["model"] == pipe.fingerprint
        and "not for diagnosis" in told["Software"]
        and all(isinstance(v, str) for v in told.values())
    )
    same = pixels(pipe, ["head", "head", "chest", "chest"], num_inference_steps=2)
    assert apart(pixels(pipe, ["head", "chest"], num_images_per_prompt=2, num_inference_steps=2), same) == 0
    assert "negative_prompt" not in pipe("head", num_inference_steps=1).images[0].info


def test_distinct_prompts_are_encoded_once(pipe):
    pipe.seen.clear()
    pixels(pipe, ["head", "chest", "head"], num_images_per_prompt=2, negative_prompt="dark", num_inference_steps=1)
    assert pipe.seen == [["head", "chest"], ["dark"]]


def test_prompt_embeds_replace_encoding(pipe):
    pipe.seen.clear()
    e = pipe.encode(["head", "chest"])
    pipe.seen.clear()
    long = "x" * 5000  # nobody encodes it, so its length is nobody's business
    images = pipe(["head", long], prompt_embeds=e, num_inference_steps=2).images
    assert (
        not pipe.seen
        and images[1].info["prompt"] == long
        and "prompt" not in pipe(prompt_embeds=e, num_inference_steps=2).images[0].info
    )
    assert torch.equal(pixels(pipe, ["head", "chest"]), pixels(pipe, prompt_embeds=e))


def test_progress_counts_all_steps_of_all_batches(pipe, monkeypatch):
    made = []

    class Bar:
        n = 0

        def __enter__(self):
            return self

        def __exit__(self, *a):
            pass

        def update(self, n=1):
            self.n += n

    def bar(iterable=None, total=None):
        made.append((Bar(), total))
        return made[-1][0]

    monkeypatch.setattr(pipe, "progress_bar", bar)
    pixels(pipe, ["a", "b", "c"], batch_size=2, num_inference_steps=5)
    assert [(b.n, total) for b, total in made] == [(10, 10)]


LONG = " ".join(["lung"] * 12)  # four words more than are read


def cut_warnings(pipe, *args, **kw):
    "What a request warns of."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe(*args, num_inference_steps=1, output_type="pt", **kw)
    return [w for w in caught if w.category is CutPromptWarning]


def test_cut_prompts_give_one_warning_with_numbers(pipe):
    (one,) = cut_warnings(pipe, LONG)
    assert "the prompt has 12 tokens and the text encoder reads 8: the last 4 are cut" in str(one.message)
    assert one.filename == __file__
    prompts = [LONG, "head", f"{LONG} lung", LONG]
    (several,) = cut_warnings(pipe, prompts, negative_prompt=f"{LONG} nodule", batch_size=1, guidance_scale=3)
    assert "3 of 4 prompts" in str(several.message)  # distinct ones, the negative one among them
    assert "14 tokens are cut, of the longest prompt 5 of 13" in str(several.message)
    assert not cut_warnings(pipe, ["head", "chest"])
    assert not cut_warnings(pipe, LONG, prompt_embeds=vectors(1))


def test_text_encoder_follows_to(monkeypatch):
    pipe = with_encoder(tiny())
    pipe.to("cpu")
    pipe.to(torch.bfloat16)
    assert pipe._encoder.moved == [torch.device("cpu")] * 2  # a cast concerns the denoiser alone
    made = []
    encoder = lambda name, length, device: made.append((name, device)) or BytesEncoder()  # noqa: E731
    monkeypatch.setattr(parts, "make_encoder", encoder)
    fresh = tiny(encoder="minilm")
    assert fresh.to("cpu") is fresh
    assert not made  # it is loaded when it is needed, and then where the denoiser is
    fresh("head", num_inference_steps=1)
    assert made == [("minilm", torch.device("cpu"))]


def watch_autocast(pipe, **kw):
    "What each call of the network computes in."
    found = []

    def look(*args):
        found.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)

    hook = pipe.denoiser.register_forward_pre_hook(look)
    try:
        return pixels(pipe, "head", **kw), set(found)
    finally:
        hook.remove()


def test_precision_is_the_autocast_of_the_network(pipe):
    exact, computed_in = watch_autocast(pipe)
    assert computed_in == {None}  # `auto` on a CPU
    same, computed_in = watch_autocast(pipe, precision="no")
    assert computed_in == {None}
    assert torch.equal(same, exact)
    rounded, computed_in = watch_autocast(pipe, precision="bf16")
    assert computed_in == {torch.bfloat16}
    assert 0 < (exact - rounded).abs().float().mean() < 5
    with torch.autocast("cpu", torch.bfloat16):  # as in a training's previews
        assert watch_autocast(pipe, precision="no")[1] == {torch.bfloat16}
    for wrong, says in (("fp16", "needs a CUDA GPU"), ("half", "no precision is called 'half'")):
        with pytest.raises(ConfigError, match=says):
            pipe("head", precision=wrong)


@pytest.mark.soak
def test_compiled_batches_have_one_shape():
    "Requests of other lengths and a last batch that is not full need no other graph than the first batch."
    from torch._dynamo.utils import counters

    plain, pipe = with_encoder(tiny(max_length=8)), with_encoder(tiny(max_length=8))
    shapes = []
    real = P.sample_batch

    def watched(denoiser, schedule, text, negative, generators, *args):
        shapes.append((len(generators), tuple(text.tokens.shape), None if negative is None else negative.mask.shape))
        return real(denoiser, schedule, text, negative, generators, *args)

    torch._dynamo.reset()
    counters.clear()
    options = dict(batch_size=3, num_inference_steps=2)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(P, "sample_batch", watched)
        pipe.compile_denoiser(backend="eager")
        pixels(pipe, prompt_embeds=vectors(3, length=8), **options)
        graphs = counters["stats"]["unique_graphs"]
        assert graphs > 0
        for n, length in ((5, 5), (3, 3)):
            e = vectors(n, length)
            images = pixels(pipe, prompt_embeds=e, **options)
            assert len(images) == n
            assert apart(images, pixels(plain, prompt_embeds=e, **options)) <= 1
    assert set(shapes[:1]) == {(3, (3, 8, D), None)}
    assert counters["stats"]["unique_graphs"] == graphs
    torch._dynamo.reset()


def passes(pipe, **kw):
    "Rows that each call of the network saw."
    rows = []
    hook = pipe.denoiser.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        pixels(pipe, "head", num_inference_steps=5, **kw)
    finally:
        hook.remove()
    return rows


def test_guidance_interval_and_passes(pipe):
    plain, strong = pixels(pipe, "head", guidance_scale=1), pixels(pipe, "head", guidance_scale=4)
    assert torch.equal(pixels(pipe, "head", guidance_scale=4, guidance_interval=(0, 0)), plain)
    assert torch.equal(pixels(pipe, "head", guidance_scale=4, guidance_interval=(0, 1)), strong)
    assert passes(pipe, guidance_scale=4) == [2] * 5 and passes(pipe, guidance_scale=1) == [1] * 5
    assert passes(pipe, guidance_scale=4, guidance_interval=(0.4, 0.8)) == [1, 1, 2, 2, 1]
    assert passes(pipe, guidance_scale=4, guidance_interval=(1, 1)) == [1] * 5


def test_rescale(pipe):
    "Rescaling takes contrast away from strong guidance, and does nothing to none."
    strong, rescaled = (
        pixels(pipe, "head", guidance_scale=20, guidance_rescale=r, num_inference_steps=1).float() for r in (0, 1)
    )
    assert rescaled.std() < strong.std() and apart(strong, rescaled) > 5
    assert torch.equal(
        pixels(pipe, "head", guidance_scale=1, guidance_rescale=1), pixels(pipe, "head", guidance_scale=1)
    )


def test_negative_prompt(pipe):
    plain, strong = pixels(pipe, "head", guidance_scale=1), pixels(pipe, "head", guidance_scale=4)
    assert apart(pixels(pipe, "head", guidance_scale=4, negative_prompt="head"), plain) <= 1
    assert apart(pixels(pipe, "head", guidance_scale=4, negative_prompt="chest"), strong) > 5
    with pytest.raises(ConfigError, match="show the negative prompt instead of avoiding it"):
        pixels(pipe, "head", guidance_scale=0, negative_prompt="chest")
    two = pixels(pipe, ["head", "head"], guidance_scale=4, negative_prompt=["head", "chest"], indices=[0, 0])
    assert apart(two[0], plain[0]) <= 1 and apart(two[1], strong[0]) > 5


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(prompt=None), "there is no prompt"),
        (dict(prompt=["head", ""]), "the prompt is empty"),
        (dict(negative_prompt=["a", "b"]), "2 negative prompts for 1"),
        (dict(prompt_embeds=torch.zeros(1, D)), "TextEmbedding"),
        (dict(indices=[0, 1]), "2 indices for 1"),
        (dict(guidance_scale=-1), "guidance_scale is -1"),
        (dict(image_size=32), "16 pixels"),
        (dict(sampler="../etc"), "sampler is '../etc'"),
        (dict(sampler="euler"), "the sampler euler does not work for a model that predicts v_prediction"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_bad_request_is_one_sentence_and_nothing_is_generated(pipe, monkeypatch, wrong, says):
    monkeypatch.setattr(P, "sample_batch", lambda *a, **kw: pytest.fail("it generated"))
    with pytest.raises(ConfigError, match=says) as e:
        pipe(**{"prompt": "head", **wrong})
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "text", ["computed tomography, head", "Schädel é ÿ", "頭部 CT 🩻", "a\0b \x1b[31m", '<b>|x|</b> \\ "q"', "x" * 1000]
)
def test_png_text_round_trips(pipe, tmp_path, text):
    im = pipe(text, num_inference_steps=1).images[0]
    save_png(im, tmp_path / "sub" / "x.png")
    with Image.open(tmp_path / "sub" / "x.png") as again:
        assert again.text == im.info and again.text["prompt"] == text and again.mode == "L"
        assert np.array_equal(np.array(again), np.array(im))
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["x.png"]


# Saving and loading


def test_parent_signatures_are_kept():
    for name in ("save_pretrained", "from_pretrained", "push_to_hub"):
        ours, theirs = (inspect.signature(getattr(c, name)).parameters for c in (RadGenPipeline, DiffusionPipeline))
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values()
        ]


@pytest.mark.parametrize(
    "options", [{}, {"max_shard_size": "100KB"}, {"variant": "fp16"}], ids=["whole", "parts", "variant"]
)
def test_saved_and_loaded_draws_the_same(tmp_path, options):
    pipe = tiny(about={"name": "n", "scores": {"FID": 3.5}}, max_length=32, equalize=True, encoder="minilm")
    pipe.save_pretrained(str(tmp_path / "a"), **options)
    again = RadGenPipeline.from_pretrained(str(tmp_path / "a"), **{k: v for k, v in options.items() if k == "variant"})
    again.set_progress_bar_config(disable=True)
    assert torch.equal(pixels(again, prompt_embeds=vectors(3)), pixels(pipe, prompt_embeds=vectors(3)))
    assert again.fingerprint == pipe.fingerprint and not again.denoiser.training
    assert {k: again.config[k] for k in ("encoder", "max_length", "equalize", "about")} == {
        "encoder": "minilm",
        "max_length": 32,
        "equalize": True,
        "about": {"name": "n", "scores": {"FID": 3.5}},
    }
    again.save_pretrained(tmp_path / "b", **options)
    files = [
        {p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()}
        for d in (tmp_path / "a", tmp_path / "b")
    ]
    assert files[0] == files[1] and not any(str(tmp_path).encode() in b for b in files[1].values())


@pytest.mark.parametrize("how", ["dtype", "torch_dtype", "to", "to_keyword"])
def test_fingerprint_is_that_of_the_weights_before_a_cast(folder, how):
    expected = RadGenPipeline.from_pretrained(folder).fingerprint
    load = {how: torch.bfloat16} if how.endswith("dtype") else {}
    again = RadGenPipeline.from_pretrained(folder, **load)
    if how == "to":
        again.to("cpu", torch.bfloat16)
    if how == "to_keyword":
        again.to(dtype=torch.bfloat16)
    assert again.denoiser.dtype == torch.bfloat16
    assert again.fingerprint == expected
    image = again(prompt_embeds=vectors(1), num_inference_steps=1).images[0]
    assert image.info["model"] == expected


def test_flow_pipeline_is_saved_and_loaded(tmp_path):
    pipe = with_encoder(tiny("flow"))
    pipe.save_pretrained(tmp_path / "final")
    again = RadGenPipeline.from_pretrained(tmp_path / "final")
    again.set_progress_bar_config(disable=True)
    loaded, saved = ({k: v for k, v in p.scheduler.config.items() if k[0] != "_"} for p in (again, pipe))
    assert loaded == saved
    assert {"euler", "heun", "dpm++"} <= set(samplers_for("flow"))
    for sampler in samplers_for("flow"):
        e = vectors(2)
        drawn = pixels(pipe, prompt_embeds=e, sampler=sampler)
        assert torch.equal(pixels(again, prompt_embeds=e, sampler=sampler), drawn)
    with pytest.raises(ConfigError, match="ddpm"):
        pipe("head", sampler="ddpm")
    assert pipe.seen == []  # it is refused before anything is encoded


@pytest.mark.parametrize(
    "prediction, other",
    [("flow", "DDPMScheduler"), ("v_prediction", "FlowMatchEulerDiscreteScheduler")],
)
def test_schedule_of_another_class_is_refused(tmp_path, prediction, other):
    tiny(prediction).save_pretrained(tmp_path / "final")
    edit(tmp_path / "final" / "model_index.json", scheduler=["diffusers", other])
    with pytest.raises(DataError, match=f"and not a {other}"):
        RadGenPipeline.from_pretrained(tmp_path / "final")


def test_vgg_pipeline_and_16_bits(tmp_path):
    torch.manual_seed(0)
    m = VGG16UNet(sample_size=16, text_dim=D, widths=(64, 128, 256), mid_width=16, cond_dim=16, emb_dim=16)
    RadGenPipeline(m, make_schedule()).save_pretrained(tmp_path)
    again = RadGenPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert type(again.denoiser) is VGG16UNet and again.denoiser.dtype == torch.bfloat16


@pytest.mark.parametrize("kw", [{"safe_serialization": False}, {"use_flashpack": True}], ids=str)
def test_pickles_are_not_written(tmp_path, kw):
    with pytest.raises(ConfigError, match="safetensors only"):
        tiny().save_pretrained(tmp_path / "x", **kw)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "kw", [{"custom_pipeline": "x"}, {"trust_remote_code": True}, {"use_safetensors": False}], ids=str
)
def test_code_is_not_asked_for(folder, kw):
    with pytest.raises(ConfigError, match="leave it out"):
        RadGenPipeline.from_pretrained(folder, **kw)


def edit(path, **new):
    path.write_text(json.dumps({**json.loads(path.read_text()), **new}))


def index(**new):
    return lambda d: edit(d / "model_index.json", **new)


W = "denoiser/diffusion_pytorch_model.safetensors"


class Bomb:
    "Writes a file when it is unpickled."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "boom")


def pickled(d):
    (d / W).unlink()
    torch.save({"x": Bomb(d.parent / "boom")}, d / "denoiser" / "diffusion_pytorch_model.bin")


def pickled_by_index(d):
    torch.save({"x": Bomb(d.parent / "boom")}, d / "evil.bin")
    (d / W).unlink()
    (d / "denoiser" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"x": "../evil.bin"}})
    )


def code(d):
    for name in (
        "denoiser/evil.py",
        "denoiser/radgen.networks.unet.py",
        "pipeline.py",
        "RadGenPipeline.py",
        "evil.py",
        "scheduler/diffusers.py",
    ):
        (d / name).write_text(f"open({str(d.parent / 'boom')!r}, 'w').write('boom')\nclass UNet: pass\n")


def without(name):
    def change(d):
        from safetensors.torch import load_file, save_file

        state = load_file(d / W)
        save_file(
            {k: v for k, v in state.items() if k != "out.bias"}
            if name == "tensor"
            else {**state, "out.bias": state["out.bias"] * torch.nan},
            d / W,
        )

    return change


@pytest.mark.parametrize(
    "change, says",
    [
        (pickled, "pickle"),
        (pickled_by_index, "has none"),
        (lambda d: (d / W).unlink(), "has none"),
        (lambda d: shutil.rmtree(d / "denoiser"), "has none"),
        (lambda d: shutil.rmtree(d / "scheduler"), "could not be loaded"),
        (lambda d: (d / W).write_bytes((d / W).read_bytes()[:-100]), "could not be read"),
        (lambda d: (d / W).write_bytes(b""), "could not be read"),
        (without("tensor"), "missing"),
        (without("number"), "not finite"),
        (lambda d: (d / "model_index.json").unlink(), "no model_index.json"),
        (lambda d: (d / "model_index.json").write_text('{"_cla'), "not valid JSON"),
        (lambda d: (d / "model_index.json").write_text("[1]"), "not a RadGenPipeline"),
        (index(_class_name="StableDiffusionPipeline"), "StableDiffusionPipeline"),
        (index(_class_name=["evil", "RadGenPipeline"]), "not a RadGenPipeline"),
        (lambda d: (code(d), edit(d / "model_index.json", denoiser=["evil", "UNet"])), "as the denoiser"),
        (index(denoiser=["os", "system"]), "as the denoiser"),
        (index(denoiser=None), "as the denoiser"),
        (index(scheduler=["diffusers", "EulerDiscreteScheduler"]), "as the scheduler"),
        (index(denoiser=["radgen.networks.vgg_unet", "VGG16UNet"]), "holds a UNet"),
        (index(encoder=["os", "system"]), "encoder is"),
        (index(max_length="many"), "max_length"),
        (index(about={"autor": "x"}), "no option autor"),
        (index(about="x"), "about"),
        (index(about={"concepts": ["x"]}), "concepts"),
        (lambda d: edit(d / "scheduler" / "scheduler_config.json", prediction_type="flow"), "predicts 'flow'"),
        (lambda d: edit(d / "scheduler" / "scheduler_config.json", beta_schedule="evil"), "could not be loaded"),
        (lambda d: edit(d / "denoiser" / "config.json", sample_size="big"), "could not be loaded"),
        (lambda d: edit(d / "denoiser" / "config.json", mid_width=32), "could not"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_folder_that_is_not_sound_is_refused(folder, change, says):
    change(folder)
    with pytest.raises(DataError, match=says) as e:
        RadGenPipeline.from_pretrained(folder)
    assert "\n" not in str(e.value) and not (folder.parent / "boom").exists()


def test_code_in_a_folder_is_never_run(folder):
    code(folder)
    edit(folder / "model_index.json", safety_checker=["evil", "UNet"])
    assert type(RadGenPipeline.from_pretrained(folder).denoiser) is UNet and not (folder.parent / "boom").exists()


def test_there_is_no_folder(tmp_path, monkeypatch):
    for name in (tmp_path / "none", "a/b/c", "none", "../x", ""):
        with pytest.raises(DataError, match="no pipeline folder"):
            RadGenPipeline.from_pretrained(name)

    def offline(name, **kw):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(DataError, match="the hub gave none: ConnectionError"):
        RadGenPipeline.from_pretrained("owner/name")


def test_only_data_is_fetched_from_the_hub(folder, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **kw: asked.update(kw, name=name) or str(folder)
    )
    assert RadGenPipeline.from_pretrained("owner/name", revision="v1").config.about == {"name": "tiny"}
    assert asked == {"name": "owner/name", "revision": "v1", "allow_patterns": ["*.json", "*.safetensors", "*.txt"]}


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_our_card_is_what_is_pushed(folder, tmp_path, monkeypatch, how):
    "The hub is a folder here; the repository holds an older, generated card, which diffusers would write over ours."
    pushed = tmp_path / "hub"

    class Repo:
        repo_id = "owner/name"

    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.create_repo", lambda *a, **kw: Repo)
    monkeypatch.setattr(hub, "create_repo", lambda *a, **kw: Repo)
    monkeypatch.setattr(hub, "upload_folder", lambda repo_id, folder_path, **kw: shutil.copytree(folder_path, pushed))
    monkeypatch.setattr(
        hub.ModelCard, "load", lambda *a, **kw: ModelCard("---\nlicense: mit\n---\nautomatically generated")
    )
    pipe = RadGenPipeline.from_pretrained(folder)
    if how == "push_to_hub":
        pipe.push_to_hub("owner/name")
    else:
        pipe.save_pretrained(tmp_path / "name", push_to_hub=True)
    assert (pushed / "README.md").read_text(encoding="utf-8") == model_card({"name": "tiny"})
    assert not any(str(tmp_path).encode() in p.read_bytes() for p in pushed.rglob("*") if p.is_file())
    again = RadGenPipeline.from_pretrained(pushed)
    assert again.fingerprint == pipe.fingerprint and again.config.about == {"name": "tiny"}


WITH_DIFFUSERS = """
import sys

import torch
from diffusers import DiffusionPipeline

folder = sys.argv[1]
pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
embeds = sys.modules["radgen.text.embedding"].TextEmbedding(*torch.load(sys.argv[2], weights_only=True))
print(pipe(prompt_embeds=embeds, num_inference_steps=2, output_type="pt").images.sum().item())
"""


@pytest.mark.soak
def test_diffusers_loads_a_saved_folder_by_itself(folder, tmp_path):
    pipe = RadGenPipeline.from_pretrained(folder)
    embeds = vectors(1)
    torch.save(list(embeds), tmp_path / "text.pt")
    command = [sys.executable, "-c", WITH_DIFFUSERS, str(folder), str(tmp_path / "text.pt")]
    env = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    ours = pipe(prompt_embeds=embeds, num_inference_steps=2, output_type="pt").images.sum().item()
    assert int(found.stdout.split()[-1]) == ours


def test_a_pipeline_is_made_of_the_parts_of_another(folder):
    pipe = RadGenPipeline.from_pretrained(folder)
    other = RadGenPipeline.from_pipe(pipe)
    assert other.denoiser is pipe.denoiser
    assert other.config.about == pipe.config.about
    assert (folder / "pipeline.py").read_text().count("radgen.networks.unet") == 2


def test_update_card_changes_both_files_or_none(folder, monkeypatch):
    weights = (folder / W).read_bytes()
    update_card(folder, scores={"FID": 3.5}, recipe="paper")
    update_card(folder, scores={"KID": 0.01}, name="later", recipe=None)
    about = {"name": "later", "scores": {"FID": 3.5, "KID": 0.01}}
    assert (
        RadGenPipeline.from_pretrained(folder).config.about == about
        and (folder / "README.md").read_text(encoding="utf-8") == model_card(about)
        and (folder / W).read_bytes() == weights
    )
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError):
        update_card(folder, scores=3)

    def killed(about):
        raise KeyboardInterrupt

    monkeypatch.setattr(S, "model_card", killed)  # between the two files
    with pytest.raises(KeyboardInterrupt):
        update_card(folder, scores={"FID": 9.0})
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before and [
        p.name for p in folder.parent.iterdir()
    ] == ["final"]
    with pytest.raises(DataError):
        update_card(folder.parent / "none", name="x")
