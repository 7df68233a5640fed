"Tiny denoisers and inputs for the tests of this folder."

import torch

from radgen.diffusion.process import diffusion_loss, make_schedule
from radgen.networks.registry import DENOISERS, denoiser_classes, make_denoiser
from radgen.text.embedding import TextEmbedding

D, PX = 24, 16
NAMES = [next(n for n in DENOISERS if DENOISERS[n].location == place) for place in denoiser_classes()]
PRESETS = ("paper-1", "radgen-1", "radgen-2")  # and the patch size
KINDS = [f"{name}-{preset}" for name in NAMES for preset in PRESETS]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def make(kind, px=PX, opened=True):
    "A tiny network whose zero-initialised layers were opened, so that everything matters."
    torch.manual_seed(0)
    name, preset, patch = kind.split("-")
    affine = "torchvision" if DENOISERS[name].pretrained else None
    model = make_denoiser(name, preset, "tiny", px, int(patch), text_dim=D, affine=affine)
    with torch.no_grad():
        for p in model.parameters():
            if opened and not p.any():
                p.normal_(0, 0.1)
    return model.eval()


def inputs(B=3, L=6, px=PX, seed=0):
    "Noisy images, steps and texts of different lengths."
    g = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([L, 2, 4])[torch.arange(B) % 3]
    x, t = torch.randn(B, 1, px, px, generator=g), torch.randint(0, 1000, (B,), generator=g)
    tokens, mask = torch.randn(B, L, D, generator=g), torch.arange(L) < lengths[:, None]
    return x, t, TextEmbedding(tokens, mask, torch.randn(B, D, generator=g))


def loss_of(model, x, t, text, drop=(False, True, False)):
    "The loss of one batch with some texts dropped."
    text = model.drop_text(text, torch.tensor(drop))
    return diffusion_loss(model, make_schedule(), x, text, t, torch.ones_like(x))


class Trap:
    "A pickle that runs code when it is opened."

    ran: list = []

    def __reduce__(self):
        return Trap.ran.append, (1,)
