"""Images: reading and writing them, comparing them, and running a network on one of any size.

Images are (h, w, 3) RGB arrays of uint8 or uint16 here, and (1, 3, h, w) tensors in [0, 1] for a network.
"""

from netgraft.imaging.color import linear_to_srgb, srgb_to_linear
from netgraft.imaging.io import MAX_PIXELS, RgbImage, decode_image, image_paths, image_size, read_image, write_image
from netgraft.imaging.metrics import SSIM_VARIANTS, mae, psnr_db, ssim
from netgraft.imaging.tiles import run_tiled

__all__ = [
    "MAX_PIXELS",
    "SSIM_VARIANTS",
    "RgbImage",
    "decode_image",
    "image_paths",
    "image_size",
    "linear_to_srgb",
    "mae",
    "psnr_db",
    "read_image",
    "run_tiled",
    "srgb_to_linear",
    "ssim",
    "write_image",
]
