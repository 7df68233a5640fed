"""Schedules, images and texts for the tests of this folder."""

import torch

from radgen.diffusion.process import PREDICTIONS
from radgen.text.embedding import TextEmbedding

ULP = 2**-24  # half a unit in the last place of a 32-bit number near 1
SCHEDULES = [  # each pair of values of two options occurs
    dict(betas="linear", zero_snr=False, shift=1.0),
    dict(betas="linear", zero_snr=True, shift=2.0),
    dict(betas="linear", zero_snr=False, shift=4.0),
    dict(betas="cosine", zero_snr=True, shift=1.0),
    dict(betas="cosine", zero_snr=False, shift=2.0),
    dict(betas="cosine", zero_snr=True, shift=4.0),
]
CASES = [  # each prediction with both curves or both ends, and with a shift
    ("epsilon", SCHEDULES[0]),
    ("epsilon", SCHEDULES[4]),
    ("v_prediction", SCHEDULES[1]),
    ("v_prediction", SCHEDULES[3]),
    ("sample", SCHEDULES[5]),
    ("sample", SCHEDULES[2]),
    ("flow", SCHEDULES[0]),
    ("flow", SCHEDULES[2]),
]
STEPS = torch.tensor([0, 1, 20, 300, 700, 998, 999])


def called(options):
    "A short name of a schedule."
    zero = "-zero" if options["zero_snr"] else ""
    return f"{options['betas']}{zero}-shift{options['shift']:.0f}"


SCHEDULE_IDS = [called(options) for options in SCHEDULES]
CASE_IDS = [f"{kind}-{called(options)}" for kind, options in CASES]


def seeded(seed=0):
    "A generator."
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    "Standard normal numbers."
    return torch.randn(*shape, generator=seeded(seed))


IMAGES = normal(7, 1, 8, 8).clamp(-1, 1)
NOISE = normal(7, 1, 8, 8, seed=1)


def words(n, pooled=None, length=3, width=24, seed=0):
    "An embedding of n texts."
    pooled = normal(n, width, seed=seed + 1) if pooled is None else pooled.expand(n, -1)
    return TextEmbedding(normal(n, length, width, seed=seed), torch.ones(n, length, dtype=torch.bool), pooled)


assert {kind for kind, _ in CASES} == set(PREDICTIONS)
