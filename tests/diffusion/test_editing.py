"""Images in: the three ways against what is known, whatever the batch, and inputs that cannot work."""

import numpy as np
import pytest
import torch
from autoencoders import make_vae
from diffusion_tools import normal
from PIL import Image
from scipy.stats import binomtest
from test_pipeline import BytesEncoder, tiny, with_encoder

import radgen.diffusion.pipeline as P
from radgen.core.devices import index_generator
from radgen.core.errors import ConfigError, DataError
from radgen.diffusion.config import SamplingTrajectory, samplers_for
from radgen.diffusion.editing import INVERSIONS, Batch, image_to_image, inpaint, noise_levels, resampling_path
from radgen.diffusion.exact import FiniteDenoiser, label_text
from radgen.diffusion.latents import load_vae
from radgen.diffusion.pipeline import RadGenPipeline
from radgen.diffusion.process import PREDICTIONS, make_schedule
from radgen.networks.unet import SIZES, UNet

IMAGES = normal(6, 1, 8, 8, seed=4).clamp(-1, 1)
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
GIVEN = (127.5 * (normal(3, 16, 16, seed=5) / 3 + 1)).clamp(0, 255).round().to(torch.uint8)
HALF = np.zeros((16, 16), np.uint8)
HALF[:, 8:] = 255
QUICK = dict(num_inference_steps=3, seed=3, output_type="pt")


def exact(prediction, label=0, n=3, images=IMAGES, labels=LABELS, **trajectory):
    "A batch of n images of a class in a finite world."
    schedule = make_schedule(prediction, zero_snr=prediction == "v_prediction")
    trajectory = SamplingTrajectory(**{"num_inference_steps": 25, "guidance_scale": 1.0, **trajectory})
    text = label_text(torch.full((n,), label), 2)
    generators = [index_generator(1, i) for i in range(n)]
    return Batch(FiniteDenoiser(schedule, images, labels), schedule, text, None, generators, trajectory)


def nearest(x, images=IMAGES):
    return torch.cdist(x.flatten(1), images.flatten(1)).argmin(1).tolist()


@pytest.fixture(scope="module")
def pipe():
    return with_encoder(tiny())


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    "A pipeline on latents of 8 positions per side, for images of 16 pixels."
    vae = load_vae(make_vae(tmp_path_factory.mktemp("vae")))
    torch.manual_seed(0)
    network = UNet(sample_size=8, in_channels=4, text_dim=24, block="paper", **SIZES["tiny"]).eval()
    made = RadGenPipeline(network, make_schedule("flow"), vae=vae, latent_scale=0.5)
    made.set_progress_bar_config(disable=True)
    return with_encoder(made)


def three_ways(pipe, rows, **options):
    "Results of image to image, inpainting and editing for some of the images."
    given, options = [GIVEN[i] for i in rows], {**QUICK, "indices": rows, **options}
    prompts = ["head", "chest", "abdomen"]
    texts = [prompts[i] for i in rows]
    return [
        pipe(texts, image=given, strength=0.5, **options).images.int(),
        pipe(texts, image=given, mask=HALF, **options).images.int(),
        pipe.edit(given, texts, ["normal"] * len(rows), **options).images.int(),
        pipe.edit(given, texts, ["normal"] * len(rows), inversion="ddim", **options).images.int(),
    ]


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
def test_strength_one_is_a_drawing_and_strength_zero_the_image(prediction):
    made = with_encoder(tiny(prediction))
    for sampler in samplers_for(prediction):
        drawn = made("head", sampler=sampler, **QUICK).images
        assert torch.equal(made("head", image=GIVEN[0], strength=1, sampler=sampler, **QUICK).images, drawn), sampler
        half = made("head", image=GIVEN[0], strength=0.5, sampler=sampler, **QUICK).images
        assert not torch.equal(half, drawn), sampler
    assert torch.equal(made("head", image=GIVEN, strength=0.0, **QUICK).images, GIVEN)
    assert torch.equal(made.edit(GIVEN, "head", "chest", strength=0, **QUICK).images, GIVEN)
    assert torch.equal(made("head", image=GIVEN, mask=HALF, strength=0, **QUICK).images, GIVEN)


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
def test_noise_of_the_start_is_that_of_the_first_step(prediction):
    "The exact denoiser of one image sees it at each step, whichever sampler begins in the middle."
    for sampler in samplers_for(prediction):
        for strength in (0.04, 0.3, 0.8):
            batch = exact(prediction, images=IMAGES[:1], labels=LABELS[:1], sampler=sampler)
            batch.text = label_text(torch.zeros(3, dtype=torch.long), 1)
            back = image_to_image(batch, IMAGES[:1].expand(3, -1, -1, -1), strength)
            assert (back - IMAGES[:1]).abs().max() < 0.03, (sampler, strength)


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
def test_same_prompt_gives_the_image_back(prediction):
    for name, bound in (("ddpm", 1e-4), ("ddim", 0.03)):
        for first in (0, 10):
            if name == "ddim" and first == 0 and prediction in ("flow", "v_prediction"):
                continue  # the first entry is pure noise, which has forgotten the image
            batch = exact(prediction)
            back = INVERSIONS[name](batch, batch.text, IMAGES[:3], first)
            assert (back - IMAGES[:3]).abs().max() < bound, (name, first)


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
def test_another_prompt_gives_an_image_of_it(prediction):
    batch = exact(prediction, label=1, num_inference_steps=50)
    changed = INVERSIONS["ddim"](batch, label_text(torch.zeros(3, dtype=torch.long), 2), IMAGES[:3], 0)
    assert min(nearest(changed)) >= 3
    assert (changed - IMAGES[nearest(changed)]).abs().max() < 0.05


def test_inpainting_draws_from_the_posterior():
    "Two images share a half: the other half is drawn as either of them, each about as often."
    pair = IMAGES[:2].clone()
    pair[1, ..., :4] = pair[0, ..., :4]
    redraw = torch.zeros(64, 1, 8, 8, dtype=torch.bool)
    redraw[..., 4:] = True
    batch = exact("v_prediction", n=64, images=pair, labels=torch.zeros(2).long(), sampler="ddim")
    batch.text = label_text(torch.zeros(64, dtype=torch.long), 1)
    drawn = inpaint(batch, pair[:1].expand(64, -1, -1, -1), redraw)
    found = nearest(drawn, pair)
    assert (drawn - pair[found]).abs().max() < 0.05
    assert binomtest(sum(found), 64).pvalue > 1e-4


def test_path_of_inpainting_visits_each_step_as_often_as_requested():
    for first, steps, resample, jump in ((0, 25, 4, 5), (3, 25, 2, 7), (24, 25, 3, 10), (0, 1, 5, 1)):
        path = resampling_path(first, steps, resample, jump)
        assert path[0] == first and path[-1] == steps
        down = [i for i, after in zip(path, path[1:]) if after > i]
        assert all(after == i + 1 for i, after in zip(path, path[1:]) if after > i)
        assert [down.count(i) for i in range(first, steps)] == [resample] * (steps - first)


def test_entries_are_those_of_the_sampler():
    levels = noise_levels(make_schedule("flow", shift=2.0), 10)
    assert len(levels.t) == 10 and levels.a[0] == 0 and levels.s[-1] == 0 and levels.a[-1] == 1
    torch.testing.assert_close(levels.a + levels.s, torch.ones(11))


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_outside_the_mask_nothing_changes(pipe, latent, kind):
    made = pipe if kind == "pixels" else latent
    mask = np.zeros((16, 16), np.uint8)
    mask[3:6, 5:12] = 255
    for options in ({}, {"sampler": "ddim", "resample": 1}, {"strength": 0.5, "guidance_scale": 3.0}):
        drawn = made("head", image=GIVEN, mask=mask, **options, **QUICK).images
        assert torch.equal(drawn[:, mask == 0], GIVEN[:, mask == 0]), options
        assert (drawn[:, mask > 0].int() - GIVEN[:, mask > 0].int()).abs().max() > 2, options


@pytest.mark.parametrize("kind", ["pixels", pytest.param("latents", marks=pytest.mark.soak)])
def test_result_does_not_depend_on_the_batch(pipe, latent, kind):
    made = pipe if kind == "pixels" else latent
    full = three_ways(made, [0, 1, 2])
    for rows, options in (([0, 1, 2], {"batch_size": 2}), ([2, 0], {})):
        for whole, part in zip(full, three_ways(made, rows, **options)):
            assert (whole[rows] - part).abs().max() <= 1, rows
    with_other_noise = three_ways(made, [0, 1, 2], seed=4)
    changed = [not torch.equal(whole, other) for whole, other in zip(full, with_other_noise)]
    assert changed == [True, True, True, False]  # DDIM inversion draws no noise


def test_batches_of_one_shape_give_the_same_images(pipe):
    "As a compiled network needs them: texts are padded and the last batch is filled up."
    options = {"batch_size": 2, "num_inference_steps": 2}
    full = three_ways(pipe, [0, 1, 2], **options)
    pipe.static = True
    try:
        for whole, padded in zip(full, three_ways(pipe, [0, 1, 2], **options)):
            assert whole.shape == padded.shape and (whole - padded).abs().max() <= 1
    finally:
        pipe.static = False


def test_progress_counts_the_steps_that_are_taken(pipe, monkeypatch):
    class Bar:
        n = 0

        def __init__(self, total):
            self.total = total

        def __enter__(self):
            return self

        def __exit__(self, *_):
            bars.append((self.n, self.total))

        def update(self):
            self.n += 1

    bars = []
    monkeypatch.setattr(pipe, "progress_bar", lambda total: Bar(total))
    three_ways(pipe, [0, 1, 2], batch_size=2, num_inference_steps=5)
    assert bars == [(4, 4), (40, 40), (8, 8), (16, 16)]  # 2 of 5 steps; 4 times 5; 4 of 5; 4 back and 4 forth
    pipe("head", image=GIVEN[0], strength=0, **QUICK)
    assert bars[-1] == (0, 0)


def test_an_image_says_what_it_was_made_from(pipe):
    options = {"num_inference_steps": 2}
    changed = pipe.edit(GIVEN[0], "head", ["chest", "abdomen"], **options).images
    assert [im.info["prompt"] for im in changed] == ["chest", "abdomen"]
    told = changed[1].info
    assert (told["from_prompt"], told["strength"], told["sampler"]) == ("head", "0.8", "ddpm inversion")
    painted = pipe("head", image=GIVEN[0], mask=HALF, **options).images[0].info
    assert (painted["resample"], painted["jump"], painted["sampler"]) == ("4", "5", "ddim")
    assert painted["made_from"] == told["made_from"] and len(told["made_from"]) == 64
    assert "made_from" not in pipe("head", **options).images[0].info


def test_prompts_and_images_are_matched(pipe):
    "One prompt for all images, one image for all prompts, or one of each; several results of each."
    one = pipe(["head", "chest"], image=GIVEN[0], num_images_per_prompt=2, strength=0.5, **QUICK).images
    assert len(one) == 4
    many = pipe("head", image=GIVEN, strength=0.5, **QUICK).images
    assert len(many) == 3 and torch.equal(many[0], one[0])
    vectors = pipe.encode(["head", "chest"])
    same = pipe(prompt_embeds=vectors, image=GIVEN[0], strength=0.5, num_images_per_prompt=2, **QUICK).images
    assert torch.equal(same, one)


def test_images_of_any_kind_and_size(pipe, tmp_path):
    "A wide photograph in colour is brought to the centre square of the model's size, from memory as from a file."
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8))
    wide.save(tmp_path / "wide.png")
    options = dict(strength=0.5, **QUICK)
    a, b, c = (pipe("head", image=x, **options).images for x in (wide, tmp_path / "wide.png", np.asarray(wide)))
    assert torch.equal(a, b) and torch.equal(a, c)
    back = pipe("head", image=wide, strength=0, **QUICK).images
    assert back.shape == (1, 16, 16)


def test_a_model_of_equalised_images_sees_the_image_equalised(pipe):
    made = with_encoder(tiny(equalize=True))
    dark = (GIVEN[0] // 4).numpy()
    seen = made("head", image=dark, strength=0, **QUICK).images[0]
    assert seen.max() > 200 > dark.max()


BAD = [
    (dict(image=GIVEN[0], strength=1.1), "between 0 and 1"),
    (dict(image=GIVEN[0], strength=float("nan")), "between 0 and 1"),
    (dict(strength=0.5), "strength has no effect without an image"),
    (dict(mask=HALF), "a mask needs an image"),
    (dict(image=GIVEN[0], resample=2), "resample has no effect without a mask"),
    (dict(image=GIVEN[0], inversion="ddim"), "inversion has no effect without an edit from one prompt"),
    (dict(image=GIVEN[0], mask=HALF[:8]), "the mask has 16x8 pixels and its image 16x16"),
    (dict(image=GIVEN[0], mask=np.zeros((16, 16), np.uint8)), "no white pixel"),
    (dict(image=GIVEN[0], mask=HALF, sampler="dpm++"), "remembers former steps"),
    (dict(image=GIVEN[0], mask=HALF, sampler="heun"), "remembers former steps"),
    (dict(image=np.full((16, 16), np.nan)), "not finite"),
    (dict(image=np.full((16, 16), 300.0)), "numbers from 300 to 300"),
    (dict(image=np.zeros((16, 16), np.int32)), "an array of int32"),
    (dict(image=np.zeros((0, 16), np.uint8)), "shape"),
    (dict(image=7), "the image is int"),
    (dict(image=[]), "there is no image"),
    (dict(image="none.png"), "none.png: image missing"),
    (dict(prompt=["head", "chest"], image=GIVEN), "3 images for 2 prompts"),
    (dict(image=GIVEN[:2], mask=[HALF] * 3), "3 masks for 2 images"),
]


@pytest.mark.parametrize("wrong, says", BAD, ids=range(len(BAD)))
def test_bad_input_is_one_sentence_and_nothing_is_drawn(pipe, monkeypatch, wrong, says):
    monkeypatch.setattr(P, "generate", lambda *a, **kw: pytest.fail("it drew"))
    with pytest.raises((ConfigError, DataError), match=says):
        pipe(**{"prompt": "head", **wrong})


def test_an_edit_that_cannot_work_is_one_sentence(pipe):
    for options, says in (
        (dict(sampler="ddpm"), "takes no sampler"),
        (dict(resample=2), "without a mask"),
        (dict(inversion="none"), "inversion is 'none'"),
        (dict(strength=-1), "between 0 and 1"),
    ):
        with pytest.raises(ConfigError, match=says):
            pipe.edit(GIVEN[0], "head", "chest", **options)
    with pytest.raises(ConfigError, match="the prompt is empty"):
        pipe.edit(GIVEN[0], " ", "chest")
    with pytest.raises(ConfigError, match="2 prompts of the given images and 3 new ones"):
        pipe.edit(GIVEN, ["a", "b"], ["c", "d", "e"])


def test_files_that_are_no_images_are_refused_by_name(pipe, tmp_path):
    for name, content in (("a.png", b"no image"), ("b.png", b""), ("c.dcm", b"\0" * 200)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: image unreadable"):
            pipe("head", image=tmp_path / name)


def test_encoder_reads_both_prompts_of_an_edit():
    made = tiny()
    made._encoder = BytesEncoder()
    made.edit(GIVEN[0], "head", "chest", num_inference_steps=1)
    assert sorted(sum(made._encoder.seen, [])) == ["chest", "head"]
