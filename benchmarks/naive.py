"""The paper's UNet and training step as first implemented: the baseline of `step.py` and `memory.py`.

Attention is `nn.MultiheadAttention` that returns its weights, at every size up to the full image. The text encoder is
in the loop, switched to training (its dropout is on), called one caption at a time and twice: once for the tokens,
once for the pooled vector. Everything is f32 in the default memory layout.
"""

import torch
import torch.nn.functional as F
from torch import nn


class DoubleConv(nn.Module):
    def __init__(self, cin, cout, residual=False):
        super().__init__()
        self.residual = residual
        self.net = nn.Sequential(
            nn.Conv2d(cin, cout, 3, padding=1, bias=False),
            nn.GroupNorm(1, cout),
            nn.GELU(),
            nn.Conv2d(cout, cout, 3, padding=1, bias=False),
            nn.GroupNorm(1, cout),
        )

    def forward(self, x):
        return F.gelu(x + self.net(x)) if self.residual else self.net(x)


class Block(nn.Module):
    "Residual and widening double convolution, and the embedding added."

    def __init__(self, cin, cout, emb_dim=256):
        super().__init__()
        self.conv = nn.Sequential(DoubleConv(cin, cin, residual=True), DoubleConv(cin, cout))
        self.emb = nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, cout))

    def forward(self, x, emb):
        return self.conv(x) + self.emb(emb)[:, :, None, None]


class AttentionWithWeights(nn.Module):
    "Self- and cross-attention that form, and return, the whole matrix of weights."

    def __init__(self, dim, context=256, heads=4):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.cross_attn = nn.MultiheadAttention(dim, heads, kdim=context, vdim=context, batch_first=True)
        self.ff = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x, tokens):
        h = x.flatten(2).swapaxes(1, 2)
        n = self.norms[0](h)
        h = h + self.self_attn(n, n, n)[0]
        h = h + self.cross_attn(self.norms[1](h), tokens, tokens)[0]
        h = h + self.ff(self.norms[2](h))
        return h.swapaxes(1, 2).view(x.shape)


class NaiveUNet(nn.Module):
    "The block list of the paper."

    def __init__(self, text_dim=768):
        super().__init__()
        self.stem = DoubleConv(1, 64)
        self.downs = nn.ModuleList(Block(a, b) for a, b in ((64, 128), (128, 256), (256, 256)))
        self.down_attn = nn.ModuleList(AttentionWithWeights(c) for c in (128, 256, 256))
        self.mid = nn.Sequential(DoubleConv(256, 512), DoubleConv(512, 512), DoubleConv(512, 256))
        self.ups = nn.ModuleList(Block(a, b) for a, b in ((512, 128), (256, 64), (128, 64)))
        self.up_attn = nn.ModuleList(AttentionWithWeights(c) for c in (128, 64, 64))
        self.out, self.tokens, self.pooled = nn.Conv2d(64, 1, 1), nn.Linear(text_dim, 256), nn.Linear(text_dim, 256)

    def forward(self, x, t, tokens, pooled):
        "(B, 1, H, W), (B,), (B, L, text_dim), (B, text_dim) -> (B, 1, H, W)"
        freq = 10000 ** (-torch.arange(0, 256, 2, device=x.device) / 256)
        wave = t[:, None] * freq
        emb, tokens = torch.cat([wave.sin(), wave.cos()], 1) + self.pooled(pooled), self.tokens(tokens)
        h, skips = self.stem(x), []
        for down, attn in zip(self.downs, self.down_attn):
            skips.append(h)
            h = attn(down(F.max_pool2d(h, 2), emb), tokens)
        h = self.mid(h)
        for up, attn in zip(self.ups, self.up_attn):
            h = attn(
                up(
                    torch.cat([F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True), skips.pop()], 1),
                    emb,
                ),
                tokens,
            )
        return self.out(h)


def encode_in_the_loop(encoder, ids, mask):
    "One caption at a time, twice."
    tokens, pooled = [], []
    with torch.no_grad():
        for i, m in zip(ids, mask):
            tokens.append(encoder(i[None], attention_mask=m[None]).last_hidden_state)
            pooled.append(encoder(i[None], attention_mask=m[None]).last_hidden_state.mean(1))
    return torch.cat(tokens), torch.cat(pooled)


class NaiveEMA:
    "An average of the weights, parameter by parameter."

    def __init__(self, model, beta=0.995):
        self.beta, self.copy = beta, [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def step(self, model):
        for old, new in zip(self.copy, model.parameters()):
            old.copy_(old * self.beta + (1 - self.beta) * new)
