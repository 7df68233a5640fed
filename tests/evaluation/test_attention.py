"""Maps of cross-attention: shares of the words, without a trace in the network."""

import pytest
import torch

from radgen.core.errors import ConfigError
from radgen.evaluation.attention import word_maps
from radgen.networks.registry import make_denoiser
from radgen.text.embedding import TextEmbedding

D, PX = 24, 16


def inputs():
    "Noisy images, steps and texts of different lengths."
    g = torch.Generator().manual_seed(0)
    x, t = torch.randn(3, 1, PX, PX, generator=g), torch.randint(0, 1000, (3,), generator=g)
    mask = torch.arange(6) < torch.tensor([[6], [2], [4]])
    return x, t, TextEmbedding(torch.randn(3, 6, D, generator=g), mask, torch.randn(3, D, generator=g))


@pytest.mark.parametrize("name", ["UNet", "VGG16UNet"])
@torch.no_grad()
def test_word_maps_are_shares_of_the_words(name):
    torch.manual_seed(0)
    model, (x, t, text) = make_denoiser(name, "radgen", "tiny", PX, text_dim=D).eval(), inputs()
    before = model(x, t, text)
    maps = word_maps(model, x, t, text)
    assert maps.shape == (3, 6, PX, PX)
    torch.testing.assert_close(maps.sum(1), torch.ones(3, PX, PX), rtol=0, atol=1e-4)
    assert not maps[~text.mask].any()
    assert torch.equal(before, model(x, t, text))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_network_without_attention_is_refused():
    model = make_denoiser("UNet", "radgen", "tiny", PX, text_dim=D, attention_max=0)
    with pytest.raises(ConfigError, match="attention_max"):
        word_maps(model, *inputs())
