"""Networks of other libraries with as many parameters as ours, for `step.py`, `gpu.py` and `peers.py`.

diffusers' UNet2DConditionModel reads the token vectors of a text by cross-attention. denoising-diffusion-pytorch's
conditional UNet takes the number of a class; its table of classes is replaced by one linear layer on the pooled vector
of a text, which is all that it lacks to take text. Widths are chosen so that parameters come within 10 % of a target.
"""

from collections.abc import Callable, Iterable

import torch
from denoising_diffusion_pytorch.classifier_free_guidance import Unet
from diffusers import UNet2DConditionModel
from torch import nn

TOLERANCE = 0.1  # of the number of parameters


def parameters(model: nn.Module) -> int:
    "Number of parameters, trained or not."
    return sum(p.numel() for p in model.parameters())


def diffusers_unet(px: int, text_dim: int, widths: tuple, layers: int = 1, attention_max: int = 32) -> nn.Module:
    "diffusers' text-conditioned UNet with attention at `attention_max` px and below, one head per 64 channels."
    down = []
    for level in range(len(widths)):
        down.append("CrossAttnDownBlock2D" if px >> level <= attention_max else "DownBlock2D")
    return UNet2DConditionModel(
        sample_size=px,
        in_channels=1,
        out_channels=1,
        layers_per_block=layers,
        block_out_channels=tuple(widths),
        norm_num_groups=8,
        attention_head_dim=tuple(max(1, c // 64) for c in widths),
        cross_attention_dim=text_dim,
        down_block_types=tuple(down),
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
    )


def ddp_unet(dim: int, text_dim: int, dim_mults: tuple = (1, 2, 4, 8), cond_drop_prob: float = 0.5) -> nn.Module:
    "denoising-diffusion-pytorch's conditional UNet with its defaults; its condition is the pooled vector of a text."
    unet = Unet(dim, num_classes=1, channels=1, dim_mults=dim_mults, cond_drop_prob=cond_drop_prob)
    unet.classes_emb = nn.Linear(text_dim, dim)
    return unet


def fitted(make: Callable, sizes: Iterable, target: int) -> nn.Module:
    "The network `make(size)` whose number of parameters comes nearest to `target`; within 10 % of it."
    found = {}
    for size in sizes:
        with torch.device("meta"):
            found[size] = parameters(make(size))
    best = min(found, key=lambda size: abs(found[size] / target - 1))
    if abs(found[best] / target - 1) >= TOLERANCE:
        raise ValueError(
            f"no size comes within {TOLERANCE:.0%} of {target:,} parameters; the nearest is {found[best]:,}."
        )
    return make(best)


def fitted_diffusers(target: int, px: int, text_dim: int, attention_max: int = 32) -> nn.Module:
    "diffusers' UNet of four sizes of image with about `target` parameters."
    widths = []
    for first in range(8, 129, 8):
        widths += [(first, 2 * first, 3 * first, last) for last in range(3 * first, 5 * first + 1, 8)]
    return fitted(lambda w: diffusers_unet(px, text_dim, w, attention_max=attention_max), widths, target)


def fitted_ddp(target: int, text_dim: int) -> nn.Module:
    "denoising-diffusion-pytorch's UNet with about `target` parameters."
    return fitted(lambda dim: ddp_unet(dim, text_dim), range(4, 97, 2), target)


def cross_attention_call(model: nn.Module, x_t, t, text, masked: bool = True) -> torch.Tensor:
    "diffusers' prediction for token vectors and, where `masked`, their mask."
    mask = text.mask if masked else None
    return model(x_t, t, encoder_hidden_states=text.tokens, encoder_attention_mask=mask).sample


def cross_attention_guided(model: nn.Module, x_t, t, text, scale: float = 2.0, masked: bool = True) -> torch.Tensor:
    "The guided prediction of diffusers' UNet in one pass; the null text is all zeros."
    tokens = torch.cat([text.tokens, torch.zeros_like(text.tokens)])
    mask = torch.cat([text.mask, text.mask]) if masked else None
    y = model(torch.cat([x_t, x_t]), torch.cat([t, t]), encoder_hidden_states=tokens, encoder_attention_mask=mask)
    cond, null = y.sample.chunk(2)
    return null + scale * (cond - null)


def class_call(model: nn.Module, x_t, t, text) -> torch.Tensor:
    "denoising-diffusion-pytorch's prediction for pooled vectors; it drops texts itself, as often as it was made to."
    return model(x_t, t, text.pooled)


def class_guided(model: nn.Module, x_t, t, text, scale: float = 2.0) -> torch.Tensor:
    "The guided prediction of denoising-diffusion-pytorch, by its own method."
    return model.forward_with_cond_scale(x_t, t, text.pooled, cond_scale=scale)[0]
