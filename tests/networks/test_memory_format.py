"""channels_last from the first convolution to the last: no block loses it, also where a normalisation gives another
format, as PyTorch's does on CUDA. On the CPU in float32 the format changes no result of a normalisation."""

import pytest
import torch
import torch.nn.functional as F
from networks_tools import KINDS, inputs, make

from radgen.networks.blocks import BLOCKS, MIDDLE, AttentionBlock, DoubleConv, GroupNorm, LayerNorm, group_norm

LAST = torch.channels_last
GROUP_NORM = F.group_norm


@pytest.fixture
def as_on_cuda(monkeypatch):
    "Group normalisation returns the usual order, whatever it gets."
    monkeypatch.setattr(F, "group_norm", lambda x, *args: GROUP_NORM(x.contiguous(), *args))


def ordered(x):
    "Whether a feature map is in channels_last."
    return x.is_contiguous(memory_format=LAST)


def lost_in(model, call):
    "The modules that take feature maps in channels_last alone and give one in another format."
    lost = []

    def look(name):
        def hook(module, args, y):
            maps = [x for x in args if isinstance(x, torch.Tensor) and x.ndim == 4]
            if isinstance(y, torch.Tensor) and y.ndim == 4 and all(map(ordered, maps)) and not ordered(y):
                lost.append(name)

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return lost


def block_call(name):
    "A block and a call of it."
    x, emb = torch.randn(2, 16, 8, 8).to(memory_format=LAST), torch.randn(2, 12)
    if name == "attention":
        block, mask = AttentionBlock(16, 10, 2), torch.ones(2, 3, dtype=torch.bool)
        return block, lambda: block(x, torch.randn(2, 3, 10), mask)
    makers = {f"{kind}-{n}": blocks[n] for kind, blocks in (("block", BLOCKS), ("middle", MIDDLE)) for n in blocks}
    block = DoubleConv(16, 24) if name == "double" else makers[name](16, 24, 12)
    block = block.to(memory_format=LAST)
    return block, lambda: block(x, emb)


BLOCK_NAMES = ["double", "attention", *(f"block-{n}" for n in BLOCKS), *(f"middle-{n}" for n in MIDDLE)]


@pytest.mark.parametrize("name", BLOCK_NAMES)
def test_every_block_keeps_channels_last(name, as_on_cuda):
    block, call = block_call(name)
    assert ordered(call())
    assert lost_in(block, call) == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_module_of_a_network_loses_channels_last(kind, as_on_cuda):
    model = make(kind).to(memory_format=LAST)
    x, t, text = inputs()
    assert lost_in(model, lambda: model(x.to(memory_format=LAST), t, text)) == []


def test_the_test_sees_a_format_that_is_lost(as_on_cuda, monkeypatch):
    monkeypatch.setattr("radgen.networks.blocks.in_format_of", lambda x, y: y)
    block, call = block_call("block-radgen")
    assert "norm1" in lost_in(block, call)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_convolutions_are_in_channels_last(kind, as_on_cuda):
    model = make(kind).to(memory_format=LAST).train()
    x, t, text = inputs()
    model(x.to(memory_format=LAST), t, text).square().mean().backward()
    wrong = [n for n, p in model.named_parameters() if p.grad is not None and p.ndim == 4 and not ordered(p.grad)]
    assert wrong == []


@pytest.mark.parametrize("channels", [1, 3, 8, 48])
@pytest.mark.parametrize("format", [LAST, torch.contiguous_format])
def test_normalisation_on_the_cpu_is_pytorchs_to_the_bit(channels, format):
    torch.manual_seed(0)
    x, norm = torch.randn(2, channels, 8, 8).to(memory_format=format), group_norm(channels)
    for p in norm.parameters():
        torch.nn.init.normal_(p)
    y = norm(x)
    assert torch.equal(y, F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps))
    assert y.stride() == F.group_norm(x, norm.num_groups).stride()
    layer = LayerNorm(8)
    assert torch.equal(layer(x), F.layer_norm(x, (8,)))


def test_the_format_of_an_image_in_the_usual_order_is_kept(as_on_cuda):
    x = torch.randn(2, 8, 4, 4)
    assert GroupNorm(2, 8)(x).is_contiguous()
