"""VAEs are read as data, and images become latents and images again."""

import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autoencoders import make_tiny_vae, make_vae
from radgen.core.errors import ConfigError, RadgenError
from radgen.core.files import read_json, write_json
from radgen.diffusion.latents import (
    LatentSpace,
    draw_latents,
    encode_images,
    encode_moments,
    latent_scale,
    moments_shape,
    pixels_per_position,
)
from radgen.diffusion.saved import open_vae, vae_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vaes")
    make_vae(folder / "grey")
    make_vae(folder / "rgb", 3, levels=3)
    make_tiny_vae(folder / "tiny")
    return folder


@pytest.mark.parametrize("name, factor, channels", [("grey", 2, 1), ("rgb", 4, 3), ("tiny", 2, 3)])
def test_grey_images_go_into_latents_and_back(folder, name, factor, channels):
    vae, x = open_vae(folder / name), torch.rand(2, 1, 16, 16) * 2 - 1
    assert pixels_per_position(vae.config) == factor
    assert vae.config.in_channels == channels
    moments = encode_moments(vae, x)
    assert moments.shape[1:] == moments_shape(vae, 16) == (8, 16 // factor, 16 // factor)
    space = LatentSpace(vae, 0.5)
    mean = moments[:, :4]
    assert torch.equal(space.encode(x), 0.5 * mean)
    decoded = vae.decode(mean).sample.mean(1, keepdim=True)
    torch.testing.assert_close(space.decode(0.5 * mean), decoded)
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_moments_are_those_of_the_library(folder):
    vae, x = open_vae(folder / "grey"), torch.rand(2, 1, 16, 16)
    expected = vae.encode(x).latent_dist
    noise = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(draw_latents(encode_moments(vae, x), noise), expected.mean + expected.std * noise)
    tiny, more = open_vae(folder / "tiny"), torch.randn(2, 4, 8, 8)
    fixed = encode_moments(tiny, x)
    torch.testing.assert_close(draw_latents(fixed, more), draw_latents(fixed, -more), atol=1e-5, rtol=0)


def test_scale_gives_draws_unit_variance():
    rng = np.random.default_rng(0)
    mean, log_variance = 3 + 2 * rng.normal(size=(500, 2, 4, 4)), np.full((500, 2, 4, 4), np.log(5.0))
    moments = np.concatenate([mean, log_variance], 1).astype(np.float16)
    assert latent_scale(moments) == pytest.approx(1 / 3, rel=0.02)  # 2 squared and 5 are 9
    with pytest.raises(ConfigError, match="all images as the same latents"):
        latent_scale(np.concatenate([np.ones((3, 1, 2, 2)), np.full((3, 1, 2, 2), -np.inf)], 1))


def test_large_moments_fit_into_sixteen_bits_and_infinite_ones_are_refused(folder):
    vae = open_vae(folder / "grey")
    images, out = np.zeros((3, 16, 16), np.uint8), np.empty((3, 8, 8, 8), np.float16)
    encode_images(vae, images, out, batch=2)
    assert np.isfinite(out).all()
    with torch.no_grad():
        vae.quant_conv.bias[0] = 1e6
    encode_images(vae, images, out)
    assert out[0, 0, 0, 0] == 65504
    with torch.no_grad():
        vae.quant_conv.bias[0] = float("nan")
    with pytest.raises(ConfigError, match="not finite for image 0"):
        encode_images(vae, images, out)


def not_finite(folder):
    weights = load_file(folder / WEIGHTS)
    next(iter(weights.values()))[...] = float("nan")
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def incomplete(folder):
    weights = load_file(folder / WEIGHTS)
    weights.popitem()
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def only_a_pickle(folder):
    (folder / WEIGHTS).unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({}))


def config(**changes):
    def change(folder):
        write_json(folder / "config.json", {**read_json(folder / "config.json"), **changes})

    return change


@pytest.mark.parametrize(
    "damage, message",
    [
        (not_finite, "not finite"),
        (incomplete, "missing|could not be read"),
        (only_a_pickle, "only a pickle"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"truncated"), "could not be read as safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "holds no VAE"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds no VAE"),
        (config(_class_name="UNet2DModel"), "no VAE for images"),
        (config(latent_channels=8), "could not be read"),
    ],
)
def test_a_vae_that_is_not_sound_is_one_sentence(folder, tmp_path, damage, message):
    bad = shutil.copytree(folder / "grey", tmp_path / "bad")
    damage(bad)
    with pytest.raises(RadgenError, match=message) as error:
        open_vae(bad)
    assert "\n" not in str(error.value)


def test_a_file_with_the_old_names_of_attention_is_read(tmp_path):
    "As older VAEs of the hub have them, which diffusers renames."
    folder = make_vae(tmp_path / "vae")
    weights, names = (
        load_file(folder / WEIGHTS),
        {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"},
    )
    old = {}
    for name, tensor in weights.items():
        for new, former in names.items():
            name = name.replace(new, former) if "attentions" in name else name
        old[name] = tensor
    assert old.keys() != weights.keys()
    save_file(old, folder / "old.safetensors", {"format": "pt"})
    found = open_vae(folder / "old.safetensors").state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights.items())


def test_images_that_are_not_finite_are_an_error(folder):
    vae = open_vae(folder / "grey")
    with torch.no_grad():
        vae.decoder.conv_out.bias[0] = float("inf")
    with pytest.raises(RadgenError, match="images that are not finite"):
        LatentSpace(vae, 1.0).decode(torch.zeros(1, 4, 8, 8))


def test_channels_other_than_grey_and_rgb_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="images of 4 channels"):
        open_vae(make_vae(tmp_path / "four", 4))


def test_a_vae_is_found_where_people_have_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no attempts to reach it
    run, pipeline = tmp_path / "run", tmp_path / "pipeline"
    shutil.copytree(folder / "grey", run / "final")
    write_json(run / "config.json", {"data_path": "of a run"})
    shutil.copytree(folder / "grey", pipeline / "vae")
    assert vae_folder(run) == run / "final"
    assert vae_folder(pipeline) == pipeline / "vae"
    file = open_vae(run / "final" / WEIGHTS)
    assert type(file) is type(open_vae(run)) is type(open_vae(pipeline))
    alone = shutil.copy(run / "final" / WEIGHTS, tmp_path / "alone.safetensors")
    with pytest.raises(ConfigError, match="put its config.json beside it"):
        open_vae(alone)
    with pytest.raises(ConfigError, match="no safetensors file"):
        open_vae(shutil.copy(alone, tmp_path / "weights.ckpt"))
    with pytest.raises(RadgenError, match=re.escape("no VAE at nowhere")):
        open_vae("nowhere")
