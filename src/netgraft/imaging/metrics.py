"""How near a restored image is to the clean one: PSNR, and SSIM in two named variants.

Both are computed in float64 on images as files hold them: 8 or 16 bits a channel, RGB, the whole frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from netgraft.errors import ImageError
from netgraft.imaging.io import RgbImage
from netgraft.names import lookup

Float = NDArray[np.float64]

WINDOW = 11
"""Side of SSIM's Gaussian window in pixels (Wang et al., TIP 2004, section III.B)."""
SIGMA = 1.5
"""Its standard deviation in pixels."""
K1, K2 = 0.01, 0.03
"""SSIM's two stabilizing constants, as shares of the value range."""


def psnr_db(restored: RgbImage, clean: RgbImage) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite for equal images.

    restored, clean: (h, w, 3) uint8 or uint16 RGB; the peak is 255 or 65535.

    Raises:
        ImageError: the two differ in shape or type, or are no RGB images.
    """
    peak = _peak(restored, clean)
    error = float(np.mean((restored.astype(np.float64) - clean.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def ssim(restored: RgbImage, clean: RgbImage, variant: str = "matlab") -> float:
    """Structural similarity (Wang et al., TIP 2004, equation 13); 1 for equal images.

    restored, clean: (h, w, 3) uint8 or uint16 RGB; the value range is 255 or 65535.
    variant: ``matlab``, the authors' ssim_index.m on each channel: only where the window lies within the
        image, averaged over the channels. ``nafnet_3d``, behind the GoPro tables of NAFNet and its relatives:
        one three-dimensional window over height, width and channels, edges replicated, averaged over all
        values. The two are not comparable.

    Raises:
        ImageError: the two differ in shape or type, are no RGB images, or are too small for the window.
        ConfigError: there is no such variant.
    """
    peak = _peak(restored, clean)
    return ssim_of(restored.astype(np.float64), clean.astype(np.float64), peak, variant)


def ssim_of(x: Float, y: Float, peak: float, variant: str = "matlab", mask: Float | None = None) -> float:
    """The same for (h, w, 3) values in float64 that reach up to ``peak``.

    mask: (h, w, 3) zeros and ones; the similarities where it is zero do not count.

    Raises:
        ImageError: they are too small for the window.
        ConfigError: there is no such variant.
    """
    smooth = lookup("SSIM variant", variant, SSIM_VARIANTS)
    if variant == "matlab" and min(y.shape[:2]) < WINDOW:
        raise ImageError(f"SSIM needs {WINDOW}x{WINDOW} pixels at least, the image has {_size(y)}; use a larger one")
    mean_x, mean_y = smooth(x), smooth(y)
    variance_x = smooth(x * x) - mean_x**2
    variance_y = smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    if mask is None:
        return float(similarity.mean())
    weights = _inner(mask) if variant == "matlab" else mask
    return float((similarity * weights).sum() / weights.sum())


def mae(restored: RgbImage, clean: RgbImage) -> float:
    """Mean absolute error over all pixels and channels, as a share of the value range: 0 for equal images, 1 at most.

    restored, clean: (h, w, 3) uint8 or uint16 RGB.

    Raises:
        ImageError: the two differ in shape or type, or are no RGB images.
    """
    peak = _peak(restored, clean)
    return float(np.mean(np.abs(restored.astype(np.float64) - clean.astype(np.float64)))) / peak


def _gaussian() -> Float:
    """(11,) weights that sum to 1."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    return np.asarray(weights / weights.sum())


def _smooth_valid(image: Float) -> Float:
    """(h, w, 3) -> (h - 10, w - 10, 3): Gaussian means where the window lies within the image."""
    return _inner(_smooth_plane(image))


def _inner(image: Float) -> Float:
    """What is left where the window lies within the image."""
    border = WINDOW // 2
    return image[border:-border, border:-border]


def _smooth_volume(image: Float) -> Float:
    """(h, w, 3) -> (h, w, 3): Gaussian means over height, width and channels, edges replicated."""
    # Replicating three channels by five on either side leaves three distinct values, so the window along the
    # channels is a 3x3 matrix.
    mixing = np.zeros((3, 3))
    for channel in range(3):
        for offset, weight in enumerate(_gaussian(), start=-(WINDOW // 2)):
            mixing[min(max(channel + offset, 0), 2), channel] += weight
    return np.asarray(_smooth_plane(image) @ mixing)


def _smooth_plane(image: Float) -> Float:
    gaussian = _gaussian()
    return np.asarray(cv2.sepFilter2D(image, cv2.CV_64F, gaussian, gaussian, borderType=cv2.BORDER_REPLICATE))


SSIM_VARIANTS: Mapping[str, Callable[[Float], Float]] = MappingProxyType(
    {"matlab": _smooth_valid, "nafnet_3d": _smooth_volume}
)
"""How each variant averages around a pixel."""


def _peak(restored: RgbImage, clean: RgbImage) -> int:
    """The largest value that the images' type can hold, once the two are known to be comparable."""
    if restored.shape != clean.shape:
        raise ImageError(
            f"cannot compare images of sizes {_size(restored)} and {_size(clean)}; crop or align them first"
        )
    if restored.dtype != clean.dtype or clean.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"cannot compare images of types {restored.dtype} and {clean.dtype}; give both as uint8 or uint16"
        )
    if clean.ndim != 3 or clean.shape[2] != 3 or clean.size == 0:
        raise ImageError(f"an (h, w, 3) image is needed, not one of shape {clean.shape}; convert it to RGB first")
    return int(np.iinfo(clean.dtype).max)


def _size(image: RgbImage | Float) -> str:
    return "x".join(map(str, image.shape))
