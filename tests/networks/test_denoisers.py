"""What every registered denoiser must do, in both presets: what reaches what, mixed precision, memory layout, one
compiled graph, several processes, saving, and inputs that are refused."""

import pytest
import torch
import torch.multiprocessing as mp
from networks_tools import KINDS, PX, D, inputs, loss_of, make
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel

from radgen.core.errors import ConfigError
from radgen.diffusion.process import diffusion_loss, make_schedule
from radgen.text.embedding import TextEmbedding

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_gradients_reach_every_parameter(kind):
    px = 2 * PX  # at PX in patches of 2, the deepest map has one position, and its attention weights no gradient
    model = make(kind, px).train()
    loss_of(model, *inputs(px=px)).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def moved(a, b):
    "The largest change of each image."
    return (a - b).abs().amax((1, 2, 3))


@every_kind
@torch.no_grad()
def test_output_depends_on_time_and_pooled_text(kind):
    model, (x, t, text) = make(kind), inputs()
    y = model(x, t, text)
    assert (moved(model(x, (t + 300) % 1000, text), y) > 1e-4).all()
    assert (moved(model(x, t, text._replace(pooled=text.pooled + 1)), y) > 1e-4).all()


@every_kind
@torch.no_grad()
def test_output_depends_on_each_token_that_is_not_masked(kind):
    model, (x, t, text) = make(kind), inputs()
    y = model(x, t, text)
    for i in range(text.mask.shape[1]):
        other = text.tokens.clone()
        other[:, i] = 3 * torch.randn(D, generator=torch.Generator().manual_seed(i))
        change = moved(model(x, t, text._replace(tokens=other)), y)
        assert (change[text.mask[:, i]] > 1e-6).all(), f"token {i} is not read"
        assert (change[~text.mask[:, i]] == 0).all(), f"token {i} is read through the mask"


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.soak)])
def test_mixed_precision_stays_near_32_bits(kind, dtype):
    model, (x, t, text) = make(kind).train(), inputs()
    exact = model(x, t, text)
    with torch.autocast("cpu", dtype):
        y = model(x, t, text)
        loss = loss_of(model, x, t, text)
    assert y.dtype == dtype
    assert loss.dtype == torch.float32
    assert (y.float() - exact).abs().max() < 0.08 * exact.abs().max()
    (loss * 1024).backward()  # as a gradient scaler does
    for name, p in model.named_parameters():
        assert p.grad.isfinite().all(), name
        assert p.grad.dtype == torch.float32, name


@every_kind
@torch.no_grad()
def test_channels_last_is_kept_on_the_cpu(kind):  # CUDA's group normalisation answers in the default layout
    model, (x, t, text) = make(kind), inputs()
    y, kept = model(x, t, text), []
    model = model.to(memory_format=torch.channels_last)
    for part in [*model.downs, *model.ups]:
        part.register_forward_hook(lambda m, a, out: kept.append(out.is_contiguous(memory_format=torch.channels_last)))
    z = model(x.contiguous(memory_format=torch.channels_last), t, text)
    torch.testing.assert_close(y, z, rtol=0, atol=1e-4)
    assert kept and all(kept)


@pytest.mark.soak
@every_kind
def test_one_graph_and_no_second_compilation(kind):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter, model = CompileCounterWithBackend("eager"), make(kind)
    fast = torch.compile(model, fullgraph=True, backend=counter)
    for seed in range(2):
        x, t, text = inputs(seed=seed)
        with torch.no_grad():
            torch.testing.assert_close(fast(x, t, text), model(x, t, text), rtol=0, atol=1e-5)
    assert counter.frame_count == 1
    with torch.autocast("cpu", torch.bfloat16):
        fast(x, t, text).float().square().mean().backward()  # and one for training in mixed precision
    assert counter.frame_count == 2
    torch._dynamo.reset()


def kept_numbers(model, args):
    "How many numbers a step keeps for the backward pass."
    sizes = []

    def pack(x):
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss_of(model, *args)
    return sum(sizes)


@every_kind
def test_gradient_checkpointing_keeps_less_and_changes_no_gradient(kind):
    model, args = make(kind).train(), inputs()

    def gradients():
        model.zero_grad()
        loss_of(model, *args).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    plain, kept = gradients(), kept_numbers(model, args)
    model.enable_gradient_checkpointing()
    assert kept_numbers(model, args) < 0.7 * kept
    for name, g in gradients().items():
        assert torch.allclose(g, plain[name], rtol=1e-4, atol=1e-6), name


CASES = [(kind, False) for kind in KINDS if "radgen" in kind] + [("VGG16UNet-radgen-1", True)]


def _worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x, t, text = inputs(4, px=32)
    mine, drop = slice(2 * rank, 2 * rank + 2), torch.tensor([False, True, True, False])
    for kind, frozen in CASES:
        model = make(kind, 32).train()
        if frozen:
            model.vgg.requires_grad_(False)
        wrapped = DistributedDataParallel(model)  # raises in the second step where a parameter went unused in the first
        for _ in range(2):
            model.zero_grad()
            part = model.drop_text(text[mine], drop[mine])
            noise = torch.ones_like(x[mine])
            diffusion_loss(wrapped, make_schedule(), x[mine], part, t[mine], noise).backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        save_file(grads, f"{folder}/{kind}-{frozen}-{rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    "Two steps of every network in two processes; the gradients of each as files."
    folder = tmp_path_factory.mktemp("ddp")
    mp.spawn(_worker, (str(folder),), nprocs=2)
    return folder


@pytest.mark.soak
@pytest.mark.parametrize("kind, frozen", CASES)
def test_two_processes_use_every_parameter_and_agree_with_one(kind, frozen, two_processes):
    a, b = (load_file(two_processes / f"{kind}-{frozen}-{r}.safetensors") for r in (0, 1))
    model = make(kind, 32).train()
    loss_of(model, *inputs(4, px=32), drop=(False, True, True, False)).backward()
    assert set(a) == {name for name, _ in model.named_parameters() if not (frozen and name.startswith("vgg."))}
    for name in a:
        assert torch.equal(a[name], b[name]), name
        assert torch.allclose(a[name], model.get_parameter(name).grad, rtol=1e-3, atol=1e-5), name


@every_kind
@torch.no_grad()
def test_saved_and_loaded_is_the_same_to_the_bit(kind, tmp_path):
    model, args = make(kind, 32), inputs(px=32)  # on maps of one pixel, rounding depends on where weights lie
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    same = type(model).from_pretrained(tmp_path)
    assert not same.training
    assert torch.equal(same(*args), model(*args))
    twin = type(model).from_config(model.config)
    options = {key: value for key, value in model.config.items() if key[0] != "_"}
    assert {key: value for key, value in twin.config.items() if key[0] != "_"} == options
    assert options["block"] == kind.split("-")[1]


@every_kind
def test_inputs_that_do_not_fit_are_refused(kind):
    model, (x, t, text) = make(kind), inputs()
    for wrong, message in (
        ((x[..., :12], t, text), "12 x 16 pixels"),
        ((x.expand(-1, 3, -1, -1), t, text), r"\(3, 3, 16, 16\)"),
        ((x[0], t, text), r"\(1, 16, 16\)"),
        ((x, t[:2], text), r"\(2,\)"),
        ((x, t, text[:2]), "2 texts"),
        ((x, t, TextEmbedding(torch.randn(3, 6, 32), text.mask, torch.randn(3, 32))), "32 wide"),
        ((x, t, text._replace(mask=text.mask.float())), "float32"),
        ((x, t, text._replace(mask=text.mask & torch.tensor([[True], [False], [True]]))), "row 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            model(*wrong)
