"""Synthetic defocus: a disc of confusion whose radius follows the depth of the scene.

A thin lens images a point out of focus as a disc with a radius proportional to the difference of inverse
depths between the point and the plane in focus (Potmesil and Chakravarty, SIGGRAPH 1981). The frame is
blurred with discs of a few radii, and every pixel blends the two nearest to its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from netgraft.data.degrade import Image, Linear, SensorNoise, Window, add_noise, to_bytes, to_linear
from netgraft.errors import ConfigError, ImageError

Scalar = TypeVar("Scalar", bound=np.generic)

LAYER_STEP_PX = 1.0
"""Radii of neighboring layers differ by this."""
SUBPIXELS = 15
"""Points per pixel along each axis where a disc is sampled."""
WAVES = 3
"""Waves in a random depth field, besides its slope."""


@dataclass(frozen=True, slots=True)
class DepthField:
    """A smooth random scene: a slanted plane with a few gentle waves; inverse depth scaled to [0, 1]."""

    slope: NDArray[np.float64]
    """(2,) rise along x and y across the frame."""
    waves: NDArray[np.float64]
    """(n, 4) per wave: cycles along x and y across the frame, phase in radians, amplitude."""

    def at(self, window: Window, frame: tuple[int, int]) -> Linear:
        """(window.height, window.width) values; frame: (h, w) in pixels."""
        low, high = self._range()
        x = (window.left + np.arange(window.width) + 0.5) / frame[1]
        y = (window.top + np.arange(window.height) + 0.5) / frame[0]
        value = (self._raw(x[None], y[:, None]) - low) / max(high - low, 1e-9)
        return np.asarray(np.clip(value, 0, 1), np.float32)

    def _range(self) -> tuple[float, float]:
        # On a fixed grid, so that every window of a frame is scaled alike.
        line = np.linspace(0, 1, 33)
        grid = self._raw(line[None], line[:, None])
        return float(grid.min()), float(grid.max())

    def _raw(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        value = self.slope[0] * x + self.slope[1] * y
        for cycles_x, cycles_y, phase, amplitude in self.waves:
            value = value + amplitude * np.cos(2 * np.pi * (cycles_x * x + cycles_y * y) + phase)
        return np.asarray(value)


def depth_field(rng: np.random.Generator) -> DepthField:
    """A random scene."""
    cycles, phases = rng.uniform(-1.5, 1.5, (WAVES, 2)), rng.uniform(0, 2 * np.pi, (WAVES, 1))
    return DepthField(rng.uniform(-1, 1, 2), np.hstack([cycles, phases, rng.uniform(0, 0.4, (WAVES, 1))]))


@lru_cache(maxsize=256)
def disc_kernel(radius_px: float) -> Linear:
    """(k, k) share of a disc's light that falls on each pixel; k is odd, the sum is 1.

    A radius below half a pixel leaves all light on the pixel in the middle.
    """
    side = 2 * int(np.ceil(max(radius_px - 0.5, 0))) + 1
    # Pixels split into SUBPIXELS^2 points: one on the edge counts by the share of its points inside the disc.
    points = (np.arange(side * SUBPIXELS) - (side * SUBPIXELS - 1) / 2) / SUBPIXELS
    covered = points[:, None] ** 2 + points[None] ** 2 <= max(radius_px, 0.5) ** 2
    kernel = covered.reshape(side, SUBPIXELS, side, SUBPIXELS).mean(axis=(1, 3))
    shares: Linear = (kernel / kernel.sum()).astype(np.float32)
    # The cache hands out this very array.
    shares.flags.writeable = False
    return shares


def defocus(sharp: Linear, radius_px: Linear) -> Linear:
    """Linear light (h, w, 3) blurred by discs of the (h, w) radii in pixels; edges are reflected."""
    position = radius_px / np.float32(LAYER_STEP_PX)
    total = np.zeros_like(sharp)
    for layer in range(int(np.floor(position.min())), int(np.ceil(position.max())) + 1):
        weight = np.maximum(0, 1 - np.abs(position - layer))
        if not weight.any():
            continue
        kernel = disc_kernel(layer * LAYER_STEP_PX)
        blurred = cv2.filter2D(sharp, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101)
        total += weight[..., None] * blurred
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class DefocusModel:
    """Defocus with sensor noise, at random strengths and focused on a random point of the scene."""

    min_radius_px: float = 0.0
    """Radius of the disc where the scene is in focus, in pixels."""
    max_radius_px: float = 6.0
    """Largest radius of the disc, in pixels."""
    max_shot: float = 2e-4
    """Largest shot noise; variance at white, in linear light."""
    max_read: float = 1.5e-3
    """Largest read noise; standard deviation in linear light."""
    depth: NDArray[np.floating] | None = field(default=None, compare=False, repr=False)
    """(h, w) inverse depth of the frames in [0, 1], or None for a random smooth scene per image."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_radius_px <= self.max_radius_px:
            raise ConfigError(
                f"defocus radii {self.min_radius_px} to {self.max_radius_px} pixels: give 0 <= min <= max"
            )

    def __call__(self, frame: Image, window: Window, rng: np.random.Generator) -> Image:
        """The window of a sharp (h, w, 3) frame as a misfocused, noisy camera would have stored it.

        Raises:
            ImageError: a depth map was given and does not have the frame's size.
        """
        # Everything but the noise is drawn before the window matters, so that windows of a frame agree.
        strongest = rng.uniform(self.min_radius_px, self.max_radius_px)
        focus = rng.uniform()
        scene = depth_field(rng)
        noise = SensorNoise(shot=rng.uniform(0, self.max_shot), read=rng.uniform(0, self.max_read))
        part = _widened(window, int(np.ceil(self.max_radius_px)) + 1, frame.shape[:2])
        depth = self._depth(scene, part, frame.shape[:2])
        distance = np.abs(depth - np.float32(focus)) / np.float32(max(focus, 1 - focus))
        radius = np.float32(self.min_radius_px) + np.float32(strongest - self.min_radius_px) * distance
        blurred = defocus(to_linear(_cut(frame, part)), radius)
        top, left = window.top - part.top, window.left - part.left
        inner = blurred[top : top + window.height, left : left + window.width]
        return to_bytes(add_noise(inner, noise, rng))

    def _depth(self, scene: DepthField, part: Window, frame: tuple[int, ...]) -> Linear:
        if self.depth is None:
            return scene.at(part, (frame[0], frame[1]))
        if self.depth.shape != frame:
            raise ImageError(f"a depth map of {self.depth.shape} does not fit a frame of {frame}; resize it first")
        return np.asarray(np.clip(_cut(self.depth, part), 0, 1), np.float32)


def _widened(window: Window, margin: int, frame: tuple[int, ...]) -> Window:
    """The window with a margin on each side, as far as the frame reaches."""
    top, left = max(0, window.top - margin), max(0, window.left - margin)
    bottom = min(frame[0], window.top + window.height + margin)
    right = min(frame[1], window.left + window.width + margin)
    return Window(top=top, left=left, height=bottom - top, width=right - left)


def _cut(frame: NDArray[Scalar], window: Window) -> NDArray[Scalar]:
    return frame[window.top : window.top + window.height, window.left : window.left + window.width]
