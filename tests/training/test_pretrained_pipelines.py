"""Fine-tuning a pipeline of diffusers, all weights or adapters: every promise that our own networks keep."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from radgen.core.devices import index_generator
from radgen.core.errors import ConfigError, DataError, RadgenError
from radgen.core.files import file_digest, read_json, write_json
from radgen.core.pipelines import _hub_folder, open_pipeline, part_patterns, tiny_pipeline
from radgen.diffusion.finetuned import LORA_FILE, RECORD, schedule_options
from radgen.diffusion.pipeline import RadGenPipeline, update_card
from radgen.diffusion.saved import read_index, saved_vae, saved_weights
from radgen.networks.pretrained_unet import load_unet
from radgen.text.pipeline_text import PipelineText
from radgen.tools.config import EmaConfig
from radgen.tools.ema import choose_ema
from radgen.training.batches import initial_model
from radgen.training.config import SampleConfig
from radgen.training.run import load_run, resolve
from radgen.training.sampling import sample
from radgen.training.train import train
from test_training_checkpoints import same_bits
from training_tools import cut_off_before, largest_difference, last_weights, tiny

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
def test_a_finished_run_changes_an_image(finished, rank):
    pipe, given, mask = finished[rank].pipeline(), np.full((16, 16), 90, np.uint8), np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    steps = {"num_inference_steps": 2, "output_type": "pt"}
    painted = pipe("head", image=given, mask=mask, **steps).images[0].numpy()
    assert (painted[:, :8] == 90).all()
    assert (painted[:, 8:] != 90).any()
    drawn = pipe("head", **steps).images
    assert torch.equal(pipe("head", image=given, strength=1, **steps).images, drawn)
    assert pipe.edit(given, "head", "chest", **steps).images.shape == (1, 16, 16)


@RANKS
def test_run_cut_off_goes_on_with_the_same_bits(small, tmp_path, base, finished, rank):
    cfg = replace(options(small, tmp_path, base, rank), checkpoint_every=4)
    with cut_off_before(1):
        train(cfg)
    same_bits(train(cfg), finished[rank])


def test_a_pipeline_is_fine_tuned_in_colour(colour, tmp_path, base):
    run = train(replace(options(colour, tmp_path, base, rank=2), steps=1))
    alone = load_run(run.final())
    assert (run.config.channels, alone.config.channels, alone.pipeline().channels) == (3, 3, 3)
    assert alone.pipeline()("head", num_inference_steps=1).images[0].mode == "RGB"
    assert "One colour image of one size" in (run.final() / "README.md").read_text()


@RANKS
def test_gradient_checkpointing_changes_no_weight(small, tmp_path, base, finished, rank):
    cfg = replace(options(small, tmp_path, base, rank), gradient_checkpointing=True)
    model = initial_model(resolve(cfg), 8)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.unet.down_blocks)
    found, expected = (saved_weights(run.final()) for run in (train(cfg), finished[rank]))
    assert largest_difference(found, expected) < 1e-6


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


@torch.no_grad()
def changed_visibly(final, folder, rank):
    """A copy of a finished model with larger changes than two steps make: without them it would give the images of its
    base, and a comparison could not tell whether it was loaded."""
    shutil.copytree(final, folder)
    file = folder / LORA_FILE if rank else folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights, g = load_file(file), torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if ".lora_B." in name:
            value *= 0.6 / value.abs().max()
        elif not rank and value.ndim > 1:
            value += 0.3 * value.std() * torch.randn(value.shape, generator=g)
    save_file(weights, file, {"format": "pt"})
    return folder


def loaded_by_diffusers(base, final, rank):
    "The finished model as plain diffusers loads it."
    kind = {1: StableDiffusionPipeline, 2: StableDiffusionXLPipeline}[len(open_pipeline(str(base)).text_parts)]
    if rank:
        pipe = kind.from_pretrained(base)
        pipe.load_lora_weights(final)
        return pipe
    return DiffusionPipeline.from_pretrained(final)


def sampled_by_diffusers(pipe, guidance, steps=3, seed=0, size=16, prompt="head"):
    "An RGB image by DDIM, 0 to 1, from the noise that radgen would take."
    changes = dict(timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **changes)
    noise = torch.randn(1, 4, size // 2, size // 2, generator=index_generator(seed, 0))
    sizes = dict(height=size, width=size, guidance_scale=guidance, num_inference_steps=steps)
    return pipe(prompt, latents=noise, output_type="np", **sizes).images[0]


def assert_same_image(final, theirs, guidance, steps=3):
    "Ours is the mean of their channels, wherever diffusers did not clip one of them."
    sizes = dict(guidance_scale=guidance, sampler="ddim", num_inference_steps=steps)
    ours = RadGenPipeline.from_pretrained(final)("head", output_type="pt", **sizes).images[0].numpy()
    whole = ((theirs > 0) & (theirs < 1)).all(-1)
    assert whole.mean() > 0.8 and np.ptp(ours) > 10
    assert np.abs(ours - 255 * theirs.mean(-1))[whole].max() < 0.6  # ours are whole numbers


def assert_images_of_both(base, final, rank):
    "The tuned model gives other images than its base, and the same in diffusers and here, guided and not."
    plain = sampled_by_diffusers(type(loaded_by_diffusers(base, base, 0)).from_pretrained(base), 1.0)
    pipe = loaded_by_diffusers(base, final, rank)
    for guidance in (1.0, 3.0):
        theirs = sampled_by_diffusers(pipe, guidance)
        assert np.abs(255 * (theirs - plain)).mean() > 5
        assert_same_image(final, theirs, guidance)


@RANKS
def test_diffusers_generates_the_same_image(finished, base, tmp_path, rank):
    assert_images_of_both(base, changed_visibly(finished[rank].final(), tmp_path / "tuned", rank), rank)


@pytest.mark.parametrize("rank", [0, pytest.param(2, marks=pytest.mark.soak)], ids=["full", "lora"])
def test_stable_diffusion_xl_trains_and_diffusers_generates_the_same_image(small, tmp_path, rank):
    base = tiny_pipeline(tmp_path / "xl", two=True)
    run = train(options(small, tmp_path, base, rank))
    assert_images_of_both(base, changed_visibly(run.final(), tmp_path / "tuned", rank), rank)


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
options = dict(height=16, width=16, guidance_scale=3.0, num_inference_steps=3, output_type="np")
np.save(out, pipe("head", latents=latents, **options).images[0])
assert not any(name.split(".")[0] == "radgen" for name in sys.modules)
"""


@pytest.mark.soak
@RANKS
def test_a_process_without_radgen_generates_the_same_image(finished, rank, base, tmp_path):
    final = changed_visibly(finished[rank].final(), tmp_path / "tuned", rank)
    noise, out = tmp_path / "noise.npy", tmp_path / "image.npy"
    np.save(noise, torch.randn(1, 4, 8, 8, generator=index_generator(0, 0)).numpy())
    arguments = [str(base if rank else final), str(final) if rank else "", str(noise), str(out)]
    subprocess.run([sys.executable, "-c", PLAIN, *arguments], check=True, cwd=tmp_path)
    theirs = np.load(out)
    plain = sampled_by_diffusers(StableDiffusionPipeline.from_pretrained(base), 3.0)
    assert np.abs(255 * (theirs - plain)).mean() > 5
    assert_same_image(final, theirs, 3.0)


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
    moved = {name: shutil.copytree(base, tmp_path / name) for name in ("moved", "vae", "scale", "schedule")}
    change_weights("vae")(moved["vae"])
    other_config("vae", scaling_factor=0.3)(moved["scale"])
    other_config("scheduler", beta_end=0.02)(moved["schedule"])
    for place, message in (
        (tiny_pipeline(tmp_path / "other", seed=1), "has another UNet or text encoder now"),
        (moved["vae"], "has another VAE now"),
        (moved["scale"], "has another VAE now"),
        (moved["schedule"], "has another noise schedule now"),
        (tmp_path / "gone", "which is not there"),
    ):
        write_json(lora / RECORD, {**record, "base": str(place)})
        with pytest.raises(DataError, match=message):
            RadGenPipeline.from_pretrained(lora)
    write_json(lora / RECORD, {**record, "base": str(moved["moved"])})
    assert RadGenPipeline.from_pretrained(lora).fingerprint == finished[2].weights()


def advised(error):
    "The options that an error advises."
    return dict(re.findall(r"--(model|lora) ([^\s)]+)", str(error).rstrip(".").split(": ", 1)[1]))


@RANKS
def test_the_advice_how_to_go_on_works(finished, cfg, small, tmp_path, base, rank):
    final = finished[rank].final()
    begun = replace(options(small, tmp_path, base), init=finished[rank].dir)
    plain = replace(tiny(small, tmp_path), init=finished[rank].dir)
    calls = [lambda: train(plain), lambda: resolve(begun)]
    calls += [lambda: resolve(replace(cfg, model=f"diffusers:{final}"))] if rank else []
    for call in calls:
        with pytest.raises(RadgenError) as found:
            call()
        assert str(found.value).count(". ") == 0
        advice = advised(found.value)
        assert advice == ({"model": f"diffusers:{base}", "lora": "2"} if rank else {"model": f"diffusers:{final}"})
        assert resolve(replace(cfg, model=advice["model"], lora=int(advice.get("lora", 0)))).base_weights


def test_a_model_is_saved_where_it_lies_and_over_another_kind(finished, tmp_path):
    full, lora = (shutil.copytree(finished[r].final(), tmp_path / str(r)) for r in (0, 2))
    (full / "notes").write_text("mine")
    pipe = RadGenPipeline.from_pretrained(full)
    for _ in range(2):
        pipe.save_pretrained(full)
    assert RadGenPipeline.from_pretrained(full).fingerprint == finished[0].weights()
    assert (full / "notes").exists() and not list(full.glob(".tmp-*"))
    adapters = RadGenPipeline.from_pretrained(lora)
    with pytest.raises(ConfigError, match="save it into another folder"):
        adapters.save_pretrained(full)
    adapters.save_pretrained(lora)
    assert RadGenPipeline.from_pretrained(lora).fingerprint == finished[2].weights()
    pipe.save_pretrained(lora)
    assert not (lora / LORA_FILE).exists()
    assert RadGenPipeline.from_pretrained(lora).fingerprint == finished[0].weights()


@RANKS
def test_no_place_on_this_machine_is_published(finished, base, tmp_path, rank):
    run = finished[rank]
    again = tmp_path / "again"
    run.pipeline().save_pretrained(again)
    for folder in (run.final(), again):
        assert read_json(folder / RECORD)["base"] == (str(base) if rank else base.name)
        card = (folder / "README.md").read_text()
        assert str(base.parent) not in card and str(run.dir) not in card
        assert f"The pipeline that it began with, {base.name}, has a licence of its own" in card
        assert "| size |" not in card
        if not rank:
            assert not any(str(place) in (folder / RECORD).read_text() for place in (base.parent, run.dir.parent))


SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A hub whose folders lie on this machine; what was asked for, and a function that puts a folder there."
    asked, folders = [], {}
    _hub_folder.cache_clear()

    def download(name, allow_patterns, revision=None, **options):
        asked.append((name, revision))
        snapshot = tmp_path / f"models--{name.replace('/', '--')}" / "snapshots" / SHA
        for file in folders[name].rglob("*"):
            place = file.relative_to(folders[name])
            if file.is_file() and any(fnmatch(place.as_posix(), pattern) for pattern in allow_patterns):
                (snapshot / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, snapshot / place)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    yield asked, folders
    _hub_folder.cache_clear()


def test_a_base_on_the_hub_is_looked_up_once_and_its_commit_is_kept(hub, small, tmp_path, base):
    asked, folders = hub
    folders["owner/tiny"] = base
    run = train(options(small, tmp_path, "owner/tiny", 2))
    assert asked == [("owner/tiny", None), ("owner/tiny", SHA)]
    assert run.config.encoder == f"diffusers:owner/tiny@{SHA}"
    assert read_json(run.final() / RECORD)["base"] == f"owner/tiny@{SHA}"
    assert f'from_pretrained("owner/tiny", revision="{SHA}")' in (run.final() / "README.md").read_text()
    assert run.pipeline().config.about["start"].startswith("owner/tiny, weights")
    folders["owner/mine"] = run.final()
    assert RadGenPipeline.from_pretrained("owner/mine").fingerprint == run.weights()


def test_a_fine_tuned_model_comes_from_the_hub_with_its_tokenizer(hub, finished):
    asked, folders = hub
    folders["owner/mine"] = finished[0].final()
    assert {file.name for file in (finished[0].final() / "tokenizer").iterdir()} >= {"vocab.json", "merges.txt"}
    assert not list(finished[0].final().rglob("tokenizer.json"))
    pipe = RadGenPipeline.from_pretrained("owner/mine")
    assert pipe("head", num_inference_steps=1, output_type="pt").images.shape == (1, 16, 16)


def test_weights_are_read_once_however_often_a_run_is_opened(small, tmp_path, base, monkeypatch):
    read = []

    def digest(path):
        read.append(str(path))
        return file_digest(path)

    copy = shutil.copytree(base, tmp_path / "copy")
    monkeypatch.setattr("radgen.core.files.file_digest", digest)
    cfg = options(small, tmp_path, copy, 2)
    run = train(cfg)
    unet = str(copy / "unet" / "diffusion_pytorch_model.safetensors")
    assert sorted(read) == sorted(set(read)) and unet in read
    monkeypatch.setattr("radgen.networks.pretrained_unet.load_file", lambda file: pytest.fail(f"{file} was read"))
    train(cfg)
    assert saved_vae(run.final()).config.scaling_factor == 0.2
    monkeypatch.setattr("radgen.diffusion.finetuned.base_fingerprint", lambda base: pytest.fail("the UNet was read"))
    saved_vae(run.final())
    with pytest.raises(ConfigError, match="base_weights"):
        change_weights("unet")(copy)
        monkeypatch.undo()
        train(cfg)


def test_zeros_for_no_text_need_no_text_encoder(tmp_path, monkeypatch):
    xl = open_pipeline(str(tiny_pipeline(tmp_path / "xl", two=True)))
    monkeypatch.setattr("radgen.networks.pretrained_unet.PipelineText", lambda *a: pytest.fail("it was loaded"))
    model = load_unet(xl, 16, 2)
    assert (model.null_tokens.shape, model.null_pooled.shape) == ((77, 20), (20,))


def test_numbered_files_with_an_index_are_read(cfg, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "numbered")
    pipe = StableDiffusionPipeline.from_pretrained(base)
    for part in ("unet", "vae", "text_encoder"):
        shutil.rmtree(folder / part)
        getattr(pipe, part).save_pretrained(folder / part, max_shard_size="20KB")
        assert len(list(folder.glob(f"{part}/*-of-*.safetensors"))) > 1, part
    found = resolve(replace(cfg, model=f"diffusers:{folder}"))
    assert found.vae_weights == resolve(cfg).vae_weights
    one, other = (load_unet(open_pipeline(str(place)), 16, 2) for place in (base, folder))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert torch.equal(one.null_tokens, other.null_tokens)
    wanted = [f.relative_to(folder).as_posix() for f in folder.rglob("*-of-*.safetensors*") if f.parent.name == "vae"]
    assert all(any(fnmatch(file, pattern) for pattern in part_patterns()) for file in wanted)
    next(folder.glob("unet/*-of-*.safetensors")).unlink()
    with pytest.raises(DataError, match="lacks some of its"):
        open_pipeline(str(folder))


def test_a_variant_alone_is_refused_with_the_way_out(hub, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "half")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))
    hub[1]["owner/half"] = folder
    for name in (str(folder), "owner/half"):
        with pytest.raises(DataError, match="variant") as found:
            open_pipeline(name)
        assert f'from_pretrained("{name}", variant="fp16")' in str(found.value)
    DiffusionPipeline.from_pretrained(folder, variant="fp16").save_pretrained(tmp_path / "NEW")
    assert open_pipeline(str(tmp_path / "NEW")).kind == "StableDiffusionPipeline"


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


def change_weights(part):
    def change(folder):
        file = next((folder / part).glob("*.safetensors"))
        weights = load_file(file)
        next(iter(weights.values())).view(-1)[0] += 0.5
        save_file(weights, file, {"format": "pt"})

    return change


def other_config(part, without=None, **changes):
    def change(folder):
        file = next((folder / part).glob("*config.json"))
        write_json(file, {**{k: v for k, v in read_json(file).items() if k != without}, **changes})

    return change


def renamed(part, stem):
    def change(folder):
        file = next((folder / part).glob("*.safetensors"))
        file.rename(file.with_stem(stem))

    return change


def damaged(place, content):
    return lambda folder: write_json(folder / place, content)


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
        (other_config("scheduler", _class_name="EDMEulerScheduler"), "only schedules with betas"),
        (other_config("scheduler", without="beta_start"), "only schedules with betas"),
        (other_config("scheduler", beta_schedule=[1]), "only schedules with betas"),
        (other_config("scheduler", rescale_betas_zero_snr=True), "predicts noise where"),
        (other_config("vae", shift_factor=0.1), "shifts its latents"),
        (other_config("unet", without="block_out_channels"), "no block_out_channels"),
        (other_config("text_encoder", hidden_size="8"), "no usable sizes"),
        (lambda folder: edit_index(folder, scheduler=[None, None]), "as its scheduler"),
        (lambda folder: edit_index(folder, text_encoder_2=5), "as its text_encoder_2"),
        (lambda folder: edit_index(folder, transformer=5), "with a transformer"),
        (damaged("model_index.json", [1]), "names no class"),
        (damaged("unet/config.json", [1]), "missing or damaged"),
        (damaged("vae/config.json", "a"), "missing or damaged"),
        (damaged("text_encoder/config.json", []), "missing or damaged"),
        (damaged("scheduler/scheduler_config.json", []), "missing or damaged"),
        (damaged("text_encoder/adapter_config.json", {}), "adapters beside its weights"),
        (renamed("unet", "model"), "no diffusion_pytorch_model.safetensors"),
        (renamed("text_encoder", "diffusion_pytorch_model"), "no model.safetensors"),
        (lambda folder: (folder / "model_index.json").unlink(), "has no model_index.json"),
        (lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no"), "could not be"),
    ],
)
def test_an_unsound_pipeline_is_one_sentence(cfg, base, tmp_path, spoil, message):
    folder = shutil.copytree(base, tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(RadgenError, match=message) as error:
        found = resolve(replace(cfg, model=f"diffusers:{folder}"))
        load_unet(open_pipeline(found.model), 16, found.latent_factor)
    assert str(error.value).count(". ") == 0


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
