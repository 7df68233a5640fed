"""Fine-tuning a pipeline of diffusers, all weights or adapters: every promise that our own networks keep."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from radgen.core.devices import index_generator
from radgen.core.errors import ConfigError, DataError, RadgenError
from radgen.core.files import read_json, write_json
from radgen.core.pipelines import open_pipeline, tiny_pipeline
from radgen.diffusion.finetuned import LORA_FILE, RECORD, schedule_options
from radgen.diffusion.pipeline import RadGenPipeline, update_card
from radgen.diffusion.saved import read_index, saved_weights
from radgen.networks.pretrained_unet import load_unet
from radgen.text.pipeline_text import PipelineText
from radgen.tools.config import EmaConfig
from radgen.tools.ema import choose_ema
from radgen.training.config import SampleConfig
from radgen.training.run import load_run, resolve
from radgen.training.sampling import sample
from radgen.training.train import train
from test_training_checkpoints import same_bits
from training_tools import cut_off_before, last_weights, tiny

RANKS = pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "A pipeline with random weights; not to be changed."
    return tiny_pipeline(tmp_path_factory.mktemp("base") / "tiny")


def options(prepared, runs, base, rank=0):
    "Options of two steps at 16 px, of which the UNet sees 8 x 8 positions."
    plain = tiny(prepared, runs)
    return replace(plain, model=f"diffusers:{base}", lora=rank, size="paper", encoder=None, log_every=1)


@pytest.fixture(scope="module")
def finished(small, base, tmp_path_factory):
    "Finished runs by rank, with a preview; not to be changed."
    folder = tmp_path_factory.mktemp("finetuned")
    return {r: train(replace(options(small, folder / str(r), base, r), preview_every=8)) for r in (0, 2)}


@pytest.fixture
def cfg(small, tmp_path, base):
    return options(small, tmp_path, base)


@RANKS
def test_a_finished_run_samples_and_says_where_it_comes_from(finished, rank, base):
    run = finished[rank]
    pipe = run.pipeline()
    assert (pipe.image_size, pipe.denoiser.config.sample_size, pipe.config.latent_scale) == (16, 8, 0.2)
    image = pipe("head", num_inference_steps=2, guidance_scale=2.0).images[0]
    assert (image.size, image.info["model"]) == ((16, 16), run.weights())
    about = pipe.config.about
    assert about["start"].startswith(f"{base.name}, weights {run.config.base_weights[:12]}")
    assert str(base.parent) not in str(about)
    assert about["options"]["lora"] == rank
    assert np.isfinite(run.metrics().valid_loss.dropna()).all()
    assert (run.dir / "previews.png").exists()
    folder = sample(SampleConfig(run.dir, n=2, steps=2, device="cpu"))
    assert len(list(folder.glob("0*.png"))) == 2
    assert not list(run.dir.rglob("*.bin"))


@RANKS
def test_run_cut_off_goes_on_with_the_same_bits(small, tmp_path, base, finished, rank):
    cfg = replace(options(small, tmp_path, base, rank), checkpoint_every=4)
    with cut_off_before(1):
        train(cfg)
    same_bits(train(cfg), finished[rank])


def test_choices_follow_from_the_pipeline(cfg):
    found = resolve(cfg)
    assert (found.map_shape, found.max_length, found.crop, found.lr) == ((4, 8), 77, 1.0, 1e-5)
    assert (found.prediction, found.betas, found.optimizer) == ("epsilon", "scaled_linear", "adamw")
    assert resolve(found) == found
    assert resolve(replace(cfg, lora=4)).lr == 1e-4
    assert resolve(replace(cfg, lr=3e-5, optimizer="muon")).lr == 3e-5


def test_checkpoints_and_averages_of_a_lora_hold_its_adapters_only(finished):
    run = finished[2]
    adapters = {name for name in saved_weights(run.final()) if name != "base"}
    assert set(last_weights(run)) == {*adapters, "base"}
    averaged = {name.split("/", 1)[-1] for name in last_weights(run, "ema")}
    assert averaged == adapters
    base = load_file(open_pipeline(run.config.model).path / "unet" / "diffusion_pytorch_model.safetensors")
    pipe = run.pipeline()
    for name, value in pipe.denoiser.unet.state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(value, base[name.replace(".base_layer", "")]), name


def diffusers_pipeline(run, rank):
    "The finished model as plain diffusers loads it."
    kind = {1: StableDiffusionPipeline, 2: StableDiffusionXLPipeline}[len(open_pipeline(run.config.model).text_parts)]
    if rank:
        pipe = kind.from_pretrained(run.config.model.removeprefix("diffusers:"))
        pipe.load_lora_weights(run.final())
        return pipe
    return DiffusionPipeline.from_pretrained(run.final())


def sampled_by_diffusers(pipe, steps, seed=0, size=16, prompt="head"):
    "An RGB image without guidance by DDIM, 0 to 1, from the noise that radgen would take."
    changes = dict(timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **changes)
    noise = torch.randn(1, 4, size // 2, size // 2, generator=index_generator(seed, 0))
    sizes = dict(height=size, width=size, guidance_scale=1.0, num_inference_steps=steps)
    return pipe(prompt, latents=noise, output_type="np", **sizes).images[0]


def assert_same_image(run, theirs, steps):
    "Ours is the mean of their channels, wherever diffusers did not clip one of them."
    sizes = dict(guidance_scale=1.0, sampler="ddim", num_inference_steps=steps)
    ours = run.pipeline()("head", output_type="pt", **sizes).images[0].numpy()
    whole = ((theirs > 0) & (theirs < 1)).all(-1)
    assert whole.mean() > 0.8 and np.ptp(ours) > 10
    assert np.abs(ours - 255 * theirs.mean(-1))[whole].max() < 0.6  # ours are whole numbers


@RANKS
def test_diffusers_generates_the_same_image(finished, rank):
    run = finished[rank]
    assert_same_image(run, sampled_by_diffusers(diffusers_pipeline(run, rank), 5), 5)


@pytest.mark.parametrize("rank", [0, pytest.param(2, marks=pytest.mark.soak)], ids=["full", "lora"])
def test_stable_diffusion_xl_trains_and_diffusers_generates_the_same_image(small, tmp_path, rank):
    run = train(options(small, tmp_path, tiny_pipeline(tmp_path / "xl", two=True), rank))
    assert_same_image(run, sampled_by_diffusers(diffusers_pipeline(run, rank), 3), 3)


PLAIN = """
import sys
import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
base, lora, noise, out = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(base)
if lora:
    pipe.load_lora_weights(lora)
changes = dict(timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **changes)
latents = torch.from_numpy(np.load(noise))
options = dict(height=16, width=16, guidance_scale=1.0, num_inference_steps=5, output_type="np")
np.save(out, pipe("head", latents=latents, **options).images[0])
assert not any(name.split(".")[0] == "radgen" for name in sys.modules)
"""


@pytest.mark.soak
@RANKS
def test_a_process_without_radgen_generates_the_same_image(finished, rank, tmp_path):
    run, noise, out = finished[rank], tmp_path / "noise.npy", tmp_path / "image.npy"
    np.save(noise, torch.randn(1, 4, 8, 8, generator=index_generator(0, 0)).numpy())
    folder = run.config.model.removeprefix("diffusers:") if rank else str(run.final())
    arguments = [folder, str(run.final()) if rank else "", str(noise), str(out)]
    subprocess.run([sys.executable, "-c", PLAIN, *arguments], check=True, cwd=tmp_path)
    assert_same_image(run, np.load(out), 5)


def test_a_fine_tuned_pipeline_needs_neither_its_run_nor_its_base(small, tmp_path, finished):
    base = tiny_pipeline(tmp_path / "gone")
    run = train(options(small, tmp_path, base))
    alone = shutil.copytree(run.final(), tmp_path / "alone")
    shutil.rmtree(base)
    pipe, again = RadGenPipeline.from_pretrained(alone), load_run(alone)
    assert pipe.fingerprint == again.weights() == run.weights() == finished[0].weights()
    assert (again.config.image_size, again.config.map_shape) == (16, (4, 8))
    assert pipe("head", num_inference_steps=2).images[0].size == (16, 16)
    assert len(list(sample(SampleConfig(run.dir, n=1, steps=1, device="cpu")).glob("0*.png"))) == 1  # stored captions
    further = resolve(options(small, tmp_path, alone))
    assert further.base_weights != run.config.base_weights


@RANKS
def test_saved_again_and_with_another_width_of_the_average_it_is_the_same_kind(finished, rank, tmp_path):
    run = load_run(shutil.copytree(finished[rank].dir, tmp_path / "r"))
    choose_ema(EmaConfig(run.dir, width=0.1, device="cpu"))
    assert run.weights() != finished[rank].weights()
    pipe = run.pipeline()
    pipe.save_pretrained(tmp_path / "again")
    assert RadGenPipeline.from_pretrained(tmp_path / "again").fingerprint == pipe.fingerprint == run.weights()
    update_card(tmp_path / "again", scores={"distance": 1.5})
    assert read_index(tmp_path / "again")["about"]["scores"] == {"distance": 1.5}
    card = (tmp_path / "again" / "README.md").read_text()
    assert "1.5" in card and ("load_lora_weights" in card) == bool(rank)
    with pytest.raises(ConfigError, match="leave variant"):
        pipe.save_pretrained(tmp_path / "v", variant="fp16")


def test_a_moved_base_is_the_same_run_and_another_base_is_not(small, tmp_path, base, finished):
    run = load_run(shutil.copytree(finished[2].dir, tmp_path / "r"))
    copy = shutil.copytree(base, tmp_path / "copy")
    assert train(options(small, tmp_path, copy, 2)).weights() == run.weights()
    other = tiny_pipeline(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match="started with other options .*base_weights"):
        train(options(small, tmp_path, other, 2))
    with pytest.raises(ConfigError, match="started with other options .*lora 2 instead of 4"):
        train(options(small, tmp_path, base, 4))


def test_a_lora_is_loaded_with_its_base_only(finished, tmp_path, base):
    lora = shutil.copytree(finished[2].final(), tmp_path / "lora")
    record = read_json(lora / RECORD)
    for place, message in (
        (tiny_pipeline(tmp_path / "other", seed=1), "another one is there now"),
        (tmp_path / "gone", "which is not there"),
    ):
        write_json(lora / RECORD, {**record, "base": str(place)})
        with pytest.raises(DataError, match=message):
            RadGenPipeline.from_pretrained(lora)
    write_json(lora / RECORD, {**record, "base": str(shutil.copytree(base, tmp_path / "moved"))})
    assert RadGenPipeline.from_pretrained(lora).fingerprint == finished[2].weights()
    with pytest.raises(DataError, match="a model of radgen"):
        open_pipeline(str(lora))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(lora=2, model="UNet"), "adapters need --model diffusers"),
        (dict(encoder="minilm"), "--encoder minilm contradicts"),
        (dict(patch=2), "--patch 2 contradicts"),
        (dict(prediction="v_prediction"), "--prediction v_prediction contradicts"),
        (dict(betas="cosine"), "--betas cosine contradicts"),
        (dict(latents="another"), "--latents another contradicts"),
        (dict(max_length=20), "--max-length 20 contradicts"),
        (dict(size="tiny"), "--size is for networks of radgen"),
        (dict(image_size=16, init=Path("runs/other")), "--init is for networks of radgen"),
        (dict(model="diffusers:nobody/nothing"), "no pipeline of diffusers at nobody/nothing"),
        (dict(model="diffusers:"), "has to follow"),
    ],
    ids=str,
)
def test_contradictions_are_one_sentence(cfg, changes, message):
    with pytest.raises(RadgenError, match=message) as found:
        resolve(replace(cfg, **changes))
    assert str(found.value).count(". ") == 0


def test_adapters_without_peft_say_what_to_install(cfg, monkeypatch):
    monkeypatch.setattr("radgen.networks.pretrained_unet.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'radgen\[lora\]'"):
        resolve(replace(cfg, lora=2))


def without(part):
    return lambda folder: edit_index(folder, **{part: [None, None]})


def edit_index(folder, **changes):
    index = read_json(folder / "model_index.json")
    write_json(folder / "model_index.json", {**index, **changes})


def to_pickle(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


def with_nan(part):
    def spoil(folder):
        file = next((folder / part).glob("*.safetensors"))
        weights = load_file(file)
        next(iter(weights.values())).view(-1)[0] = float("nan")
        save_file(weights, file, {"format": "pt"})

    return spoil


def other_config(part, **changes):
    def change(folder):
        file = next((folder / part).glob("*config.json"))
        write_json(file, {**read_json(file), **changes})

    return change


@pytest.mark.parametrize(
    "spoil, message",
    [
        (without("text_encoder"), "without a text_encoder"),
        (without("vae"), "without a vae"),
        (lambda folder: edit_index(folder, unet=["diffusers", "UNet3DConditionModel"]), "as its unet"),
        (lambda folder: edit_index(folder, text_encoder=["evil", "CLIPTextModel"]), "as its text_encoder"),
        (lambda folder: edit_index(folder, transformer=["diffusers", "SD3Transformer2DModel"]), "with a transformer"),
        (to_pickle, "only a pickle"),
        (with_nan("unet"), "not finite"),
        (with_nan("vae"), "not finite"),
        (with_nan("text_encoder"), "NaN or infinity"),
        (other_config("unet", in_channels=9), "takes 9 channels"),
        (other_config("unet", time_cond_proj_dim=8), "needs further inputs"),
        (other_config("unet", block_out_channels=[8, 32]), "could not be made|missing"),
        (other_config("scheduler", _class_name="FlowMatchEulerDiscreteScheduler"), "only schedules with betas"),
        (other_config("scheduler", prediction_type="flow"), "predicts 'flow'"),
        (other_config("vae", shift_factor=0.1), "shifts its latents"),
        (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
        (lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no"), "could not be"),
    ],
)
def test_an_unsound_pipeline_is_one_sentence(cfg, base, tmp_path, spoil, message):
    folder = shutil.copytree(base, tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(RadgenError, match=message):
        found = resolve(replace(cfg, model=f"diffusers:{folder}"))
        load_unet(open_pipeline(found.model), 16, found.latent_factor)


def test_a_model_of_radgen_does_not_start_from_a_pipeline(finished, small, tmp_path):
    with pytest.raises(ConfigError, match="go on with --model diffusers:"):
        train(replace(tiny(small, tmp_path), init=finished[0].dir))


def test_a_damaged_record_or_adapter_is_refused(finished, tmp_path):
    lora = shutil.copytree(finished[2].final(), tmp_path / "lora")
    record, weights = read_json(lora / RECORD), load_file(lora / LORA_FILE)
    write_json(lora / RECORD, {**record, "kind": "os.system"})
    with pytest.raises(DataError, match="kind"):
        read_index(lora)
    write_json(lora / RECORD, {**record, "rank": 3})
    with pytest.raises(DataError, match="other names or another rank"):
        RadGenPipeline.from_pretrained(lora)
    write_json(lora / RECORD, record)
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, lora / LORA_FILE)
    with pytest.raises(DataError, match="not finite"):
        RadGenPipeline.from_pretrained(lora)
    (lora / RECORD).unlink()
    with pytest.raises(DataError, match="without its radgen.json"):
        read_index(lora)


def test_the_null_text_is_the_empty_caption_and_a_velocity_is_trained(small, tmp_path):
    base = tiny_pipeline(tmp_path / "v", prediction_type="v_prediction")
    run = train(options(small, tmp_path, base))
    pipe = run.pipeline()
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert schedule_options(open_pipeline(str(run.final())))["beta_schedule"] == "scaled_linear"
    empty = PipelineText(f"diffusers:{base}")([""])
    assert torch.equal(pipe.denoiser.null_tokens, empty.tokens[0])
