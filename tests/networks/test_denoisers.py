"""Both networks in both presets: what reaches what, mixed precision, memory layout, one compiled graph, several processes, saving, and what is refused."""

import pickle

import pytest
import torch
import torch.multiprocessing as mp
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from safetensors.torch import load_file, save_file

from radgen.evaluation.attention import word_maps
from radgen.core.errors import AssetError, ConfigError
from radgen.networks.cost import block_table
from radgen.networks.drawing import _boxes
from radgen.diffusion.process import diffusion_loss, make_schedule
from radgen.text.embedding import TextEmbedding
from radgen.networks.unet import UNet, unet_options
from radgen.networks.pretrained import vgg16_features
from radgen.networks.vgg_unet import FiLM, VGG16UNet, load_vgg_weights, split_parameters, vgg_unet_options

D, PX = 24, 16
ALL = pytest.mark.parametrize("kind", ["UNet-paper", "UNet-radgen", "VGG16UNet-paper", "VGG16UNet-radgen"])


def make(kind, px=PX, opened=True):
    "A tiny network whose zero-initialised layers were opened, so that everything matters."
    torch.manual_seed(0)
    name, preset = kind.split("-")
    m = (
        UNet(text_dim=D, **unet_options(preset, "tiny", px))
        if name == "UNet"
        else VGG16UNet(text_dim=D, affine="torchvision", **vgg_unet_options(preset, "tiny", px))
    )
    with torch.no_grad():
        for p in m.parameters():
            if opened and not p.any():
                p.normal_(0, 0.1)
    return m.eval()


def inputs(B=3, L=6, px=PX, seed=0):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([L, 2, 4])[torch.arange(B) % 3]
    return (
        torch.randn(B, 1, px, px, generator=g),
        torch.randint(0, 1000, (B,), generator=g),
        TextEmbedding(
            torch.randn(B, L, D, generator=g), torch.arange(L) < lengths[:, None], torch.randn(B, D, generator=g)
        ),
    )


def loss_of(m, x, t, text, drop=(False, True, False)):
    return diffusion_loss(
        m,
        make_schedule(),
        x,
        m.drop_text(text, torch.tensor(drop)) if hasattr(m, "drop_text") else text,
        t,
        torch.ones_like(x),
    )


@ALL
def test_gradients_reach_every_parameter(kind):
    m = make(kind).train()
    loss_of(m, *inputs()).backward()
    dead = [n for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


@ALL
def test_output_depends_on_time_and_on_each_token_that_is_not_masked(kind):
    m, (x, t, text) = make(kind), inputs()
    with torch.no_grad():
        y = m(x, t, text)
        assert ((m(x, (t + 300) % 1000, text) - y).abs().amax((1, 2, 3)) > 1e-4).all()
        assert ((m(x, t, text._replace(pooled=text.pooled + 1)) - y).abs().amax((1, 2, 3)) > 1e-4).all()
        for i in range(text.mask.shape[1]):
            other = text.tokens.clone()
            other[:, i] = 3 * torch.randn(D, generator=torch.Generator().manual_seed(i))
            moved = (m(x, t, text._replace(tokens=other)) - y).abs().amax((1, 2, 3))
            assert (moved[text.mask[:, i]] > 1e-6).all(), f"token {i} is not read"
            assert (moved[~text.mask[:, i]] == 0).all(), f"token {i} is read through the mask"


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(kind, dtype):
    m, (x, t, text) = make(kind).train(), inputs()
    exact = m(x, t, text)
    with torch.autocast("cpu", dtype):
        y = m(x, t, text)
        loss = loss_of(m, x, t, text)
    assert y.dtype == dtype and loss.dtype == torch.float32
    assert (y.float() - exact).abs().max() < 0.08 * exact.abs().max()
    (loss * 1024).backward()  # as a gradient scaler does
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in m.parameters())


@pytest.mark.parametrize("learned", [False, True])
def test_real_vgg16_in_half_precision_bears_pure_noise(learned):
    m = load_vgg_weights(VGG16UNet(text_dim=D, **vgg_unet_options("radgen", "tiny", 32)), vgg16_features("keras"))
    x, t, text = inputs(px=32)
    if learned:  # FiLM that has learned to triple its activations
        for f in m.films:
            nn.init.constant_(f.emb.bias, 2.0)
    with torch.autocast("cpu", torch.float16):
        parts = m.slices(x, m.cond(t, text)[0])
        loss = m(x, t, text).float().square().mean()
    loss.backward()
    largest = float(max(p.detach().max() for p in parts))
    assert all(p.dtype == torch.float16 for p in parts) and largest < 65_504 / 2
    assert largest / m.scale > 10_000  # which VGG16's own scale would have brought near the largest number, or beyond
    assert all(p.grad.isfinite().all() for p in m.vgg.parameters())


def test_film_bears_a_feature_map_of_zeros():
    film = FiLM(8, 4)
    h = torch.zeros(2, 8, 4, 4, requires_grad=True)
    film(h, torch.randn(2, 4)).sum().backward()
    assert h.grad.isfinite().all()


@ALL
def test_channels_last_on_the_processor(
    kind,
):  # CUDA's group normalisation answers in the default layout; nothing here can see that
    m, (x, t, text) = make(kind), inputs()
    with torch.no_grad():
        y = m(x, t, text)
    m, seen = m.to(memory_format=torch.channels_last), {}
    for n, part in [(f"downs.{i}", d) for i, d in enumerate(m.downs)] + [(f"ups.{i}", u) for i, u in enumerate(m.ups)]:
        part.register_forward_hook(
            lambda _, a, out, n=n: seen.update({n: out.is_contiguous(memory_format=torch.channels_last)})
        )
    with torch.no_grad():
        z = m(x.contiguous(memory_format=torch.channels_last), t, text)
    assert torch.allclose(y, z, atol=1e-4) and seen and all(seen.values()), seen


@ALL
def test_one_graph_and_no_second_compilation(kind):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter, m = CompileCounterWithBackend("eager"), make(kind)
    fast = torch.compile(m, fullgraph=True, backend=counter)
    for seed in range(3):
        x, t, text = inputs(seed=seed)
        with torch.no_grad():
            assert torch.allclose(fast(x, t, text), m(x, t, text), atol=1e-5)
    assert counter.frame_count == 1
    with torch.autocast("cpu", torch.bfloat16):
        fast(x, t, text).float().square().mean().backward()  # and one for training in mixed precision
    assert counter.frame_count == 2
    torch._dynamo.reset()


@ALL
def test_gradient_checkpointing_changes_no_gradient(kind):
    m, args = make(kind).train(), inputs()

    def gradients():
        m.zero_grad()
        loss_of(m, *args).backward()
        return {n: p.grad.clone() for n, p in m.named_parameters()}

    plain = gradients()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        loss_of(m, *args)
    m.enable_gradient_checkpointing()
    fewer = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: fewer.append(x.numel()) or x, lambda x: x):
        loss_of(m, *args)
    assert sum(fewer) < 0.7 * sum(kept)
    for n, g in gradients().items():
        assert torch.allclose(g, plain[n], rtol=1e-4, atol=1e-6), n


CASES = [
    ("UNet-paper", False),
    ("UNet-radgen", False),
    ("VGG16UNet-paper", False),
    ("VGG16UNet-radgen", False),
    ("VGG16UNet-radgen", True),
]


def _worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x, t, text = inputs(4)
    mine, drop = slice(2 * rank, 2 * rank + 2), torch.tensor([False, True, True, False])
    for kind, frozen in CASES:
        m = make(kind).train()
        if frozen:
            m.vgg.requires_grad_(False)
        wrapped = DistributedDataParallel(
            m
        )  # which raises in the second step where a parameter went unused in the first
        for _ in range(2):
            m.zero_grad()
            diffusion_loss(
                wrapped,
                make_schedule(),
                x[mine],
                m.drop_text(text[mine], drop[mine]),
                t[mine],
                torch.ones_like(x[mine]),
            ).backward()
        save_file(
            {n: p.grad for n, p in m.named_parameters() if p.requires_grad},
            f"{folder}/{kind}-{frozen}-{rank}.safetensors",
        )
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    "Two steps of every network in two processes; the gradients of each as files."
    folder = tmp_path_factory.mktemp("ddp")
    mp.spawn(_worker, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("kind, frozen", CASES)
def test_two_processes_use_every_parameter_and_agree_with_one(kind, frozen, two_processes):
    a, b = (load_file(two_processes / f"{kind}-{frozen}-{r}.safetensors") for r in (0, 1))
    m = make(kind).train()
    loss_of(m, *inputs(4), drop=(False, True, True, False)).backward()
    assert set(a) == {n for n, _ in m.named_parameters() if not (frozen and n.startswith("vgg."))}
    for n in a:
        assert torch.equal(a[n], b[n]) and torch.allclose(a[n], m.get_parameter(n).grad, rtol=1e-3, atol=1e-5), n


@ALL
def test_saved_and_loaded_is_the_same_to_the_bit(kind, tmp_path):
    m, args = make(kind), inputs()
    m.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    same = type(m).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(same(*args), m(*args))
    assert type(m).from_config(m.config).config["block"] == kind.split("-")[1]


@pytest.mark.parametrize("kind", ["UNet-radgen", "VGG16UNet-radgen"])
@pytest.mark.parametrize("px, halvings", [(32, 3), (64, 3), (96, 3), (128, 4), (256, 5)])
def test_sizes_by_one_configuration(kind, px, halvings):
    with torch.device("meta"):
        m = make(kind, px, opened=False)
        x, t, text = (
            torch.randn(2, 1, px, px),
            torch.zeros(2, dtype=torch.long),
            TextEmbedding(torch.randn(2, 5, D), torch.ones(2, 5, dtype=torch.bool), torch.randn(2, D)),
        )
        with torch.no_grad():
            assert m(x, t, text).shape == x.shape
        assert len(m.ups) == halvings


# What pretrained slices see


def test_slices_are_those_of_torchvision_on_its_own_preprocessing(tmp_path):
    torch.manual_seed(0)
    source = torchvision.models.vgg16(weights=None).eval()
    torch.save(source.state_dict(), tmp_path / "vgg.pth")
    features = vgg16_features(tmp_path / "vgg.pth")
    m = load_vgg_weights(
        VGG16UNet(text_dim=D, affine=features.affine, **vgg_unet_options("paper", "tiny", PX)), features
    ).eval()
    x = torch.rand(2, 1, PX, PX)
    normalised = torchvision.transforms.v2.functional.normalize(
        x.expand(-1, 3, -1, -1), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    with torch.no_grad():
        ours, h = m.slices(2 * x - 1, m.cond(torch.zeros(2), inputs(2)[2])[0]), normalised
        for part, layers, skip in zip(
            ours, (source.features[:4], source.features[4:9], source.features[9:16]), (64, 128, 256)
        ):
            h = layers(h)
            assert part.shape[1] == skip and (part - h).abs().max() < 1e-5 * h.abs().max()


def test_slices_are_those_of_the_stand_in_on_keras_preprocessing():
    source = vgg16_features("keras")
    m = load_vgg_weights(VGG16UNet(text_dim=D, **vgg_unet_options("radgen", "tiny", PX)), source).eval()
    grey = (255 * torch.rand(2, 1, PX, PX)).round()
    bgr = torch.cat([grey - v for v in (103.939, 116.779, 123.68)], 1)  # Keras: blue, green, red, in 0..255
    first = nn.functional.conv2d(bgr, source.features[0].weight.flip(1), source.features[0].bias, padding=1)
    with torch.no_grad():
        ref = source.features[1:4](first)
        assert (m.slices(grey / 127.5 - 1)[0] / m.scale - ref).abs().max() < 1e-5 * ref.abs().max()


def test_frozen_slices_are_left_out_of_training():
    m = make("VGG16UNet-radgen")
    assert sum(map(len, split_parameters(m))) == len(list(m.parameters())) and split_parameters(m)[0]
    m.vgg.requires_grad_(False)
    assert not split_parameters(m)[0]
    loss_of(m.train(), *inputs()).backward()
    assert (
        all(p.grad is None for p in m.vgg.parameters())
        and m.films[0].emb.weight.grad.any()
        and m.to_rgb.weight.grad.any()
    )


# What is refused


@ALL
def test_inputs_that_do_not_fit(kind):
    m, (x, t, text) = make(kind), inputs()
    for wrong, told in (
        ((x[..., :12], t, text), "12 x 16 pixels"),
        ((x.expand(-1, 3, -1, -1), t, text), r"\(3, 3, 16, 16\)"),
        ((x[0], t, text), r"\(1, 16, 16\)"),
        ((x, t[:2], text), r"\(2,\)"),
        ((x, t, text[:2]), "2 texts"),
        ((x, t, TextEmbedding(torch.randn(3, 6, 32), text.mask, torch.randn(3, 32))), "32 wide"),
        ((x, t, text._replace(mask=text.mask.float())), "float32"),
        ((x, t, text._replace(mask=text.mask & torch.tensor([[True], [False], [True]]))), "row 1"),
    ):
        with pytest.raises(ConfigError, match=told):
            m(*wrong)


@pytest.mark.parametrize(
    "options, told",
    [
        (dict(sample_size=36), "36 is not a multiple of 8"),
        (dict(sample_size=0), "0 is not"),
        (dict(block="resnet"), "'resnet'"),
        (dict(heads=5), "cannot be shared by 5"),
        (dict(heads=0), "by 0"),
        (dict(affine="caffe"), "'caffe'"),
        (dict(widths=(32, 64, 128, 128)), r"not \(32, 64, 128\)"),
    ],
)
def test_configurations_that_cannot_be(options, told):
    Model = VGG16UNet if {"affine", "widths"} & set(options) else UNet
    with pytest.raises(ConfigError, match=told):
        Model(
            **{
                **(vgg_unet_options if Model is VGG16UNet else unet_options)("radgen", "tiny", 32),
                "text_dim": D,
                **options,
            }
        )


def test_options_that_nobody_knows():
    with pytest.raises(ConfigError, match="'huge'"):
        unet_options("radgen", "huge", 32)
    with pytest.raises(ConfigError, match="'resnet'"):
        unet_options("resnet", "tiny", 32)


@pytest.fixture
def saved(tmp_path):
    make("UNet-radgen").save_pretrained(tmp_path)
    return tmp_path


WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_folder_of_another_model(saved):
    with pytest.raises(ConfigError, match="holds a UNet, not a VGG16UNet"):
        VGG16UNet.from_pretrained(saved)


@pytest.mark.parametrize(
    "harm, told",
    [
        (lambda s: s.update({"mid.1.conv2.weight": s["mid.1.conv2.weight"] * torch.nan}), "mid.1.conv2.weight"),
        (lambda s: s.update({"cond.null_token": s["cond.null_token"] + torch.inf}), "cond.null_token"),
        (lambda s: s.pop("ups.0.block.norm1.bias"), "ups.0.block.norm1.bias"),
        (lambda s: s.update({"extra.weight": torch.ones(2)}), "extra.weight"),
        (lambda s: s.update({"stem.weight": torch.ones(3, 1, 3, 3)}), "stem.weight"),
    ],
    ids=["nan", "inf", "missing", "unknown", "shape"],
)
def test_weights_that_are_not_whole(saved, harm, told):
    state = load_file(saved / WEIGHTS)
    harm(state)
    save_file(state, saved / WEIGHTS)
    with pytest.raises(ConfigError, match=told):
        UNet.from_pretrained(saved)


def test_file_cut_in_the_middle(saved):
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:5000])
    with pytest.raises(ConfigError, match="could not be read as safetensors"):
        UNet.from_pretrained(saved)


class Trap:
    ran = []

    def __reduce__(self):
        return Trap.ran.append, (1,)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", WEIGHTS])
def test_pickle_is_not_opened(saved, name):
    (saved / WEIGHTS).unlink()
    (saved / name).write_bytes(pickle.dumps(Trap(), 2))
    with pytest.raises(ConfigError, match="safetensors"):
        UNet.from_pretrained(saved)
    assert not Trap.ran


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="nowhere holds no model"):
        UNet.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "write, told",
    [
        (lambda p: torch.save({"features.0.weight": torch.ones(64, 3, 3, 3)}, p), "features.0.bias"),
        (
            lambda p: torch.save(
                {
                    k: v * torch.nan if k == "features.7.bias" else v
                    for k, v in torchvision.models.vgg16(weights=None).state_dict().items()
                },
                p,
            ),
            "features.7.bias",
        ),
        (lambda p: p.write_bytes(pickle.dumps(Trap(), 2)), "not a file of named tensors"),
        (lambda p: p.write_bytes(b"hello"), "not a file of named tensors"),
        (lambda p: torch.save([1, 2], p), "not a file of named tensors"),
    ],
    ids=["missing", "nan", "pickle", "no file of weights", "a list"],
)
def test_vgg16_files_that_are_refused(write, told, tmp_path):
    write(tmp_path / "own.pth")
    with pytest.raises(AssetError, match=told):
        vgg16_features(tmp_path / "own.pth")
    assert not Trap.ran


def test_torchvisions_weights_where_they_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(AssetError, match="no network.*weights='keras'.*vgg16-397923af.pth"):
        vgg16_features("torchvision")
    assert "stand-in" in vgg16_features("auto").source  # and the report says so


# What it looks like inside


def test_boxes_of_the_drawing_hold_everything():
    table = block_table(make("VGG16UNet-radgen"))
    assert (
        _boxes(table).parameters.sum()
        == table.parameters.sum()
        == sum(p.numel() for p in make("VGG16UNet-radgen").parameters())
    )
    assert _boxes(table).gflop.sum() == pytest.approx(table.gflop.sum())


@ALL
def test_word_maps_are_shares_of_the_words(kind):
    m, (x, t, text) = make(kind), inputs()
    w = word_maps(m, x, t, text)
    assert (
        w.shape == (3, 6, PX, PX)
        and torch.allclose(w.sum(1), torch.ones(3, PX, PX), atol=1e-4)
        and not w[~text.mask].any()
    )
    with torch.no_grad():
        before = m(x, t, text)
    assert torch.equal(before, m(x, t, text)) and not any(b._forward_pre_hooks for b in m.modules())


def test_word_maps_of_a_network_without_attention():
    m = UNet(text_dim=D, **{**unet_options("radgen", "tiny", PX), "attention_max": 0})
    with pytest.raises(ConfigError, match="attention_max"):
        word_maps(m, *inputs())
