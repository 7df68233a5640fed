"""Muon beside AdamW: against PyTorch's own on matrices, on convolutions, and what every run needs of an optimiser."""

import copy

import pytest
import torch
from torch import nn

from radgen.networks.registry import make_denoiser
from radgen.training.optimizers import Muon, is_matrix, make_optimizer, orthogonalised, parameter_groups


def small_model(seed=0):
    "A convolution, two matrices, biases and a normalisation."
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(12, 16, 3), nn.GroupNorm(4, 16), nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 9))


def muon_of(model, lr=1e-2):
    "The optimiser of a model that is no denoiser."
    matrices = [p for p in model.parameters() if is_matrix(p)]
    rest = [p for p in model.parameters() if not is_matrix(p)]
    return Muon([dict(params=rest, muon=False), dict(params=matrices, muon=True)], lr)


def train(model, optimizer, steps, start=0):
    "Some steps on data that depend on the step alone."
    for step in range(start, start + steps):
        g = torch.Generator().manual_seed(step)
        x, y = torch.randn(6, 12, 4, 4, generator=g), torch.randn(6, 9, generator=g)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_singular_values_come_near_one_and_singular_vectors_stay():
    torch.manual_seed(0)
    matrices = torch.randn(5, 20, 50) * torch.logspace(-1, 0, 20)[:, None]
    steps = orthogonalised(matrices)
    values = torch.linalg.svdvals(steps)
    assert values.min() > 0.5 and values.max() < 1.3
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    diagonal = u.mT @ steps @ vt.mT
    assert (diagonal - torch.diag_embed(diagonal.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3


def test_matrices_move_as_pytorchs_muon_moves_them():
    torch.manual_seed(0)
    ours = nn.ParameterList([torch.randn(32, 48), torch.randn(48, 20), torch.randn(32, 48)])
    theirs = copy.deepcopy(ours)
    reference = torch.optim.Muon(theirs.parameters(), lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    optimizer = Muon([dict(params=list(ours), muon=True)], lr=1e-2)
    before = [p.detach().clone() for p in ours]
    for step in range(4):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(step))
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
    for a, b, start in zip(ours, theirs, before):
        assert (a - b).norm() < 0.03 * (a - start).norm()


@pytest.mark.parametrize("kind", ["power law", "one large", "exponential"])
def test_no_step_is_long_in_any_direction(kind):
    torch.manual_seed(0)
    i = torch.arange(1, 65).double()
    values = {"power law": i**-2, "one large": torch.where(i == 1, 1.0, 0.01), "exponential": torch.exp(-i / 4)}[kind]
    u, v = torch.linalg.qr(torch.randn(64, 64).double())[0], torch.linalg.qr(torch.randn(300, 64).double())[0]
    gradient = ((u * values) @ v.T).float()
    assert torch.linalg.svdvals(orthogonalised(gradient[None])).max() < 1.3


def test_a_step_is_computed_without_tf32(monkeypatch):
    "Rounded to ten bits, the products make steps several times too long, so that TF32 is off within a step."
    seen = []

    def noted(matrices):
        seen.append((torch.backends.cuda.matmul.allow_tf32, torch.is_autocast_enabled("cpu")))
        return orthogonalised(matrices)

    monkeypatch.setattr("radgen.training.optimizers.orthogonalised", noted)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        model = small_model()
        train(model, muon_of(model), 1)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert seen and not any(any(flags) for flags in seen)


def test_what_is_no_matrix_moves_as_adamw_moves_it():
    model, twin = small_model(), small_model()
    optimizer, reference = muon_of(model), torch.optim.AdamW(twin.parameters(), lr=1e-2)
    train(model, optimizer, 1)
    train(twin, reference, 1)
    for (name, p), q in zip(model.named_parameters(), twin.parameters()):
        assert torch.equal(p, q) != is_matrix(p), name


def test_a_convolution_moves_as_the_matrix_of_its_kernels():
    torch.manual_seed(0)
    weight, gradient = torch.randn(24, 12, 3, 3), torch.randn(24, 12, 3, 3)
    changes = []
    for shape in (weight.shape, (24, 108)):
        p = nn.Parameter(weight.reshape(shape).clone())
        p.grad = gradient.reshape(shape).clone()
        Muon([dict(params=[p], muon=True)], lr=1.0).step()
        changes.append((p.detach() - weight.reshape(shape)).reshape(24, 108))
    assert torch.equal(*changes)


@pytest.mark.parametrize("factor", [1e-3, 65536.0])
def test_the_size_of_the_gradient_does_not_matter_to_the_first_step_of_a_matrix(factor):
    weights = []
    for scale in (1.0, factor):
        model = small_model()
        optimizer = muon_of(model)
        g = torch.Generator().manual_seed(5)
        for p in model.parameters():
            p.grad = scale * torch.randn(p.shape, generator=g)
        optimizer.step()
        weights.append([p for p in model.parameters() if is_matrix(p)])
    for a, b in zip(*weights):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_resumed_optimiser_goes_on_to_the_bit(tmp_path):
    whole = small_model()
    expected = train(whole, muon_of(whole), 6)
    model = small_model()
    optimizer = muon_of(model)
    train(model, optimizer, 3)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    resumed = muon_of(model)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for name, value in train(model, resumed, 3, start=3).items():
        assert torch.equal(value, expected[name]), name


def test_parameters_without_a_gradient_stay():
    model = small_model()
    optimizer = muon_of(model)
    model[3].weight.requires_grad_(False)
    before = model[3].weight.clone()
    train(model, optimizer, 2)
    assert torch.equal(model[3].weight, before)
    assert not optimizer.state[model[3].weight]


@pytest.mark.parametrize("name", ["UNet", "VGG16UNet"])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_is_in_one_group(name, kind):
    model = make_denoiser(name, "radgen", "tiny", 32, 2, text_dim=24)
    groups = parameter_groups(model, kind, frozen_share=0.5)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    muon = [p for group in groups if group["muon"] for p in group["params"]]
    assert all(p.ndim in (2, 4) for p in muon) and bool(muon) == (kind == "muon")
    pretrained = {id(p) for n, p in model.named_parameters() if n.startswith("vgg.")}
    assert {id(p) for group in groups if group["frozen_share"] == 0.5 for p in group["params"]} == pretrained
    assert not pretrained & {id(p) for p in muon}


def test_the_kind_decides_the_class_and_the_rate_of_pretrained_weights():
    model = make_denoiser("VGG16UNet", "radgen", "tiny", 32, text_dim=24)
    adamw, muon = make_optimizer(model, "adamw", 3e-4), make_optimizer(model, "muon", 5e-3)
    assert type(adamw) is torch.optim.AdamW and type(muon) is Muon
    assert [group["rate"] for group in adamw.param_groups] == [1, 1]
    assert [group["rate"] for group in muon.param_groups] == [1, 1, 0.1]
