"""Between gamma-encoded sRGB and linear light (IEC 61966-2-1).

Cameras add up linear light, files hold sRGB.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def srgb_to_linear(encoded: NDArray[np.floating]) -> NDArray[np.float32]:
    """Linear light in [0, 1] of sRGB values in [0, 1]; any shape."""
    value = np.asarray(encoded, dtype=np.float32)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_to_srgb(linear: NDArray[np.floating]) -> NDArray[np.float32]:
    """sRGB values in [0, 1] of linear light; any shape, clipped to [0, 1] first."""
    value = np.clip(np.asarray(linear, dtype=np.float32), 0.0, 1.0)
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055).astype(np.float32)


BYTE_TO_LINEAR: NDArray[np.float32] = srgb_to_linear(np.arange(256) / 255)
"""Linear light of each 8-bit sRGB value."""
