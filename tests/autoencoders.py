"""Small VAEs with random weights, made on the spot."""

import torch
from diffusers import AutoencoderKL, AutoencoderTiny


def make_vae(folder, channels=1, levels=2, latent_channels=4):
    "Save an AutoencoderKL that halves an image `levels - 1` times."
    torch.manual_seed(0)
    vae = AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=(8,) * levels,
        latent_channels=latent_channels,
        norm_num_groups=4,
        layers_per_block=1,
    )
    vae.save_pretrained(folder)
    return folder


def make_tiny_vae(folder):
    "Save an AutoencoderTiny that halves an image once; its images are RGB and its latents have no variance."
    torch.manual_seed(0)
    widths = dict(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8))
    AutoencoderTiny(**widths, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).save_pretrained(folder)
    return folder
