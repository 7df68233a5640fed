"""What the pretrained slices see and give, and which parameters are theirs."""

import pytest
import torch
import torchvision
from networks_tools import D, PX, inputs, loss_of, make
from torch import nn

from radgen.networks.pretrained import vgg16_features
from radgen.networks.vgg_unet import FiLM, VGG16UNet, load_vgg_weights, split_parameters, vgg_unet_options


@pytest.mark.soak
@pytest.mark.parametrize("learned", [True, False])
def test_half_precision_holds_the_activations_of_pure_noise(learned):
    m = load_vgg_weights(VGG16UNet(text_dim=D, **vgg_unet_options("radgen", "tiny", 32)), vgg16_features("keras"))
    x, t, text = inputs(px=32)
    if learned:  # FiLM that has learned to triple its activations
        for film in m.films:
            nn.init.constant_(film.emb.bias, 2.0)
    with torch.autocast("cpu", torch.float16):
        parts = m.slices(x, m.cond(t, text)[0])
        loss = m(x, t, text).float().square().mean()
    loss.backward()
    largest = float(max(p.detach().max() for p in parts))
    assert all(p.dtype == torch.float16 for p in parts)
    assert largest < 65_504 / 2
    assert largest / m.scale > 10_000  # which VGG16's own scale would have brought near the largest number, or beyond
    assert all(p.grad.isfinite().all() for p in m.vgg.parameters())


def test_film_gives_finite_gradients_for_zeros():
    film = FiLM(8, 4)
    h = torch.zeros(2, 8, 4, 4, requires_grad=True)
    film(h, torch.randn(2, 4)).sum().backward()
    assert h.grad.isfinite().all()


@torch.no_grad()
def test_slices_are_those_of_torchvision_on_its_own_preprocessing(tmp_path):
    torch.manual_seed(0)
    source = torchvision.models.vgg16(weights=None).eval()
    torch.save(source.state_dict(), tmp_path / "vgg.pth")
    features, options = vgg16_features(tmp_path / "vgg.pth"), vgg_unet_options("paper", "tiny", PX)
    m = load_vgg_weights(VGG16UNet(text_dim=D, affine=features.affine, **options), features).eval()
    x = torch.rand(2, 1, PX, PX)
    h = torchvision.transforms.v2.functional.normalize(
        x.expand(-1, 3, -1, -1), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    ours = m.slices(2 * x - 1, m.cond(torch.zeros(2), inputs(2)[2])[0])
    theirs = (source.features[:4], source.features[4:9], source.features[9:16])
    for part, layers, channels in zip(ours, theirs, (64, 128, 256)):
        h = layers(h)
        assert part.shape[1] == channels
        assert (part - h).abs().max() < 1e-5 * h.abs().max()


@torch.no_grad()
def test_slices_are_those_of_the_stand_in_on_keras_preprocessing():
    source = vgg16_features("keras")
    m = load_vgg_weights(VGG16UNet(text_dim=D, **vgg_unet_options("radgen", "tiny", PX)), source).eval()
    grey = (255 * torch.rand(2, 1, PX, PX)).round()
    bgr = torch.cat([grey - v for v in (103.939, 116.779, 123.68)], 1)  # Keras: blue, green, red, in 0..255
    first = nn.functional.conv2d(bgr, source.features[0].weight.flip(1), source.features[0].bias, padding=1)
    wanted = source.features[1:4](first)
    assert (m.slices(grey / 127.5 - 1)[0] / m.scale - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_frozen_slices_are_left_out_of_training():
    m = make("VGG16UNet-radgen-1")
    pretrained, fresh = split_parameters(m)
    assert pretrained
    assert len(pretrained) + len(fresh) == len(list(m.parameters()))
    m.vgg.requires_grad_(False)
    assert not split_parameters(m)[0]
    loss_of(m.train(), *inputs()).backward()
    assert all(p.grad is None for p in m.vgg.parameters())
    assert m.films[0].emb.weight.grad.any()
    assert m.to_rgb.weight.grad.any()
