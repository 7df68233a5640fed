"""Requests: their options, and the plan of their images."""

import math

from types import SimpleNamespace

import pytest
import torch
from diffusion_tools import seeded, words
from torch import nn

from radgen.core.errors import ConfigError
from radgen.diffusion.config import GenerationRequest, SamplingTrajectory, check_sampler, samplers_for
from radgen.diffusion.generation import plan_images, sample_batch
from radgen.diffusion.process import PREDICTIONS, exact_prediction, make_schedule

nan, inf = math.nan, math.inf


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(prompt=" \n"), "the prompt is empty: describe an image"),
        (dict(prompt="x" * 20_000), "20000 characters: at most 10,000"),
        (dict(prompt=7), "prompt is 7"),
        (dict(prompt=["head", 3]), "prompt is 3: it must be text"),
        (dict(prompt="\udc00"), "Unicode"),
        (dict(negative_prompt=""), "the prompt is empty"),
        (dict(indices=[-1]), "indices is -1: it must be a whole number of at least 0"),
        (dict(num_inference_steps=0), "num_inference_steps is 0: .* between 1 and 1000"),
        (dict(num_inference_steps=1001), "between 1 and 1000"),
        (dict(num_inference_steps=5.0), "whole number"),
        (dict(num_inference_steps=True), "whole number"),
        (dict(guidance_scale=-1), "guidance_scale is -1: .* between 0 and 100"),
        (dict(guidance_scale=nan), "guidance_scale is nan"),
        (dict(guidance_scale=inf), "guidance_scale is inf"),
        (dict(guidance_scale="2"), "guidance_scale is '2'"),
        (dict(guidance_interval=(0.5, 0.2)), "guidance_interval is .*start <= stop"),
        (dict(guidance_interval=(0, 2)), "guidance_interval is 2"),
        (dict(guidance_interval=0.5), "guidance_interval is 0.5"),
        (dict(guidance_rescale=1.1), "guidance_rescale is 1.1: it must be between 0 and 1"),
        (dict(sampler="leapfrog"), "sampler is 'leapfrog': choose one of dpm"),
        (dict(sampler=["ddim"]), "sampler is"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(seed=1.0), "seed is 1.0: it must be a whole number"),
        (dict(seed=None), "seed is None"),
        (dict(num_images_per_prompt=0), "num_images_per_prompt is 0"),
        (dict(output_type="latent"), "output_type is 'latent': it must be one of pil, pt"),
        (dict(guidance=2), "there is no option guidance"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_option_out_of_bounds_is_one_sentence(wrong, message):
    with pytest.raises(ConfigError, match=message) as e:
        GenerationRequest(**{"prompt": "head", **wrong})
    assert len(str(e.value)) < 400
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "options, captions, embeds, message",
    [
        (dict(), None, None, "there is no prompt"),
        (dict(), (), None, "there is no prompt"),
        (dict(), None, words(3)[:0], "there is no prompt"),
        (dict(negative_prompt=["a", "b", "c"]), ("head", "chest"), None, "3 negative prompts for 2"),
        (dict(negative_prompt="a", guidance_scale=0), ("head",), None, "instead of avoiding it"),
        (dict(negative_prompt="a", guidance_scale=0.9), ("head",), None, "use guidance above 1"),
        (dict(negative_prompt="a", guidance_scale=1), ("head",), None, "would be the same without it"),
        (dict(), ("head",), torch.zeros(1, 24), "give the TextEmbedding"),
        (dict(), ("head",), words(3), "1 prompts and 3 rows"),
        (dict(), ("head",), words(1, width=32), "32 wide"),
        (dict(indices=[0]), ("a", "b"), None, "1 indices for 2"),
    ],
)
def test_request_whose_parts_do_not_fit_is_refused(options, captions, embeds, message):
    with pytest.raises(ConfigError, match=message):
        plan_images(GenerationRequest(**options), captions, embeds, 24)


def test_plan_lists_the_images_of_a_prompt_side_by_side():
    request = GenerationRequest(prompt=["head", " chest\n x "], num_images_per_prompt=2, negative_prompt="noise")
    plan = plan_images(request, request.prompt, None, 24)
    assert plan == ([0, 0, 1, 1], (0, 1, 2, 3), ("head", "chest x"), ("noise", "noise"))
    assert plan_images(GenerationRequest(indices=[4, 1]), None, words(2), 24).indices == (4, 1)


def test_guidance_acts_within_its_interval():
    trajectory = SamplingTrajectory(num_inference_steps=10, guidance_scale=3, guidance_interval=(0.2, 0.7))
    assert trajectory.scales() == [1, 1, 3, 3, 3, 3, 3, 1, 1, 1]


class Grey(nn.Module):
    "Predicts what leads to one grey with text and to another without, and records its calls."

    config = SimpleNamespace(in_channels=1, sample_size=8)
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.calls = schedule, []

    def drop_text(self, text, drop):
        return text._replace(pooled=torch.where(drop[:, None], 0.0, text.pooled))

    def forward(self, x, t, text):
        self.calls.append((len(x), t[0].item()))
        assert t.dtype == torch.int64
        grey = torch.where(text.pooled[:, :1, None, None] > 0, 0.5, 0.25)
        return exact_prediction(self.schedule, x, t, grey.expand_as(x))


PAIRS = [(name, kind) for kind in PREDICTIONS for name in samplers_for(kind)]


@pytest.mark.parametrize("name, kind", PAIRS, ids=str)
def test_batch_of_every_prediction_and_sampler(name, kind):
    schedule = make_schedule(kind)
    net, steps, text = Grey(schedule), [], words(2, torch.ones(24))
    trajectory = SamplingTrajectory(name, 6, 2.0, (0.2, 0.7))
    images = sample_batch(net, schedule, text, None, [seeded(0), seeded(1)], trajectory, lambda: steps.append(1))
    assert images.shape == (2, 8, 8)
    assert images.dtype == torch.uint8
    assert (images.float() - 191).abs().max() <= (8 if name == "ddpm" else 1)
    assert len(steps) == 6  # reported once per step, however often the network was called
    times = [t for _, t in net.calls]
    assert times[0] == 999
    assert times == sorted(times, reverse=True)
    if name == "heun":  # the second call of a step is at the time of the next one
        assert times[1::2] == times[2::2]
        assert [n for n, _ in net.calls] == [2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 2]
    else:
        assert [n for n, _ in net.calls] == [2, 2, 4, 4, 4, 2]


def test_images_of_a_flow_batch_do_not_depend_on_each_other():
    schedule = make_schedule("flow", shift=2.0)
    trajectory = SamplingTrajectory("heun", 5, 1.0)

    class Waves(Grey):
        def forward(self, x, t, text):
            return (3 * x).sin()

    both = sample_batch(Waves(schedule), schedule, words(2), None, [seeded(0), seeded(1)], trajectory)
    alone = sample_batch(Waves(schedule), schedule, words(1), None, [seeded(1)], trajectory)
    assert torch.equal(both[1:], alone)


def test_sampler_of_another_prediction_fails_before_the_network_runs():
    schedule = make_schedule("flow")
    net = Grey(schedule)
    with pytest.raises(ConfigError, match="the sampler ddpm does not work for a model that predicts flow"):
        sample_batch(net, schedule, words(1), None, [seeded(0)], SamplingTrajectory("ddpm", 5))
    assert not net.calls
    check_sampler("dpm++", "flow")  # the default works for each
