"""Synthetic degradations: camera shake, sensor noise and plain Gaussian noise, from a sharp photograph.

Light adds up before a camera encodes it, so blur and sensor noise are applied in linear light and the result is rounded
to 8 bits again, as a file would hold it; Gaussian noise is that of the denoising literature, in the encoded values.
Every function is a pure function of its arguments: the same generator state gives the same image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from netgraft.imaging.color import BYTE_TO_LINEAR, linear_to_srgb

Image = NDArray[np.uint8]
Linear = NDArray[np.float32]

ROLL_SHARE = 0.35
"""Displacement at the corner of the frame by roll, at most, over the length of the shake at its centre."""
ZOOM_SHARE = 0.1
"""The same for motion along the optical axis."""
TILT_SHARE = 0.5
"""Share of the sideways motion that comes from turning the camera; the rest from moving it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Degradation(Protocol):
    """Makes the degraded view of a window of a sharp frame."""

    def __call__(self, frame: Image, window: Window, rng: np.random.Generator) -> Image:
        """frame: (h, w, 3) uint8 -> (window.height, window.width, 3) uint8; random by ``rng`` alone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorNoise:
    """Shot and read noise in linear light, where white is 1: variance = shot * signal + read**2."""

    shot: float
    read: float


@dataclass(frozen=True, slots=True)
class ShakePath:
    """How a camera moved during the exposure, as one homography a moment."""

    homographies: NDArray[np.float64]
    """(n, 3, 3): where a pixel of the blurred frame looks in the sharp one, moment by moment."""
    length_px: float
    """Extent of the motion at the centre of the frame: the largest distance between two moments."""


def shake_path(rng: np.random.Generator, length_px: float, frame: tuple[int, int]) -> ShakePath:
    """A random 6-DoF camera path whose motion at the centre of the frame spans ``length_px`` pixels.

    The camera turns about three axes and moves along three, looking at a plane. Velocities follow a first-order
    autoregressive process, between a steady drift and a tremor. The path is centred: its mean displacement is
    zero, so that PSNR against the sharp frame judges blur and not a shift.

    frame: (h, w) in pixels.
    """
    h, w = frame
    moments = 64
    steadiness = rng.uniform(0.6, 0.995)
    velocity = np.empty((moments, 4))
    velocity[0] = rng.standard_normal(4)
    kicks = rng.standard_normal((moments, 4)) * np.sqrt(1 - steadiness**2)
    for t in range(1, moments):
        velocity[t] = steadiness * velocity[t - 1] + kicks[t]
    path = np.cumsum(velocity, axis=0)
    path -= path.mean(axis=0)
    # Columns: sideways x and y in pixels at the centre, then the pixels that roll and zoom move a corner by.
    path[:, :2] *= length_px / _extent(path[:, :2])
    corner_shares = np.array([ROLL_SHARE, ZOOM_SHARE]) * rng.uniform(0, 1, 2)
    path[:, 2:] *= length_px * corner_shares / np.maximum(np.ptp(path[:, 2:], axis=0), 1e-9)
    travel = np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).sum() * (1 + corner_shares.sum())
    samples = int(np.clip(np.ceil(travel) + 1, 2, moments))
    even = np.linspace(0, moments - 1, samples)
    path = np.stack([np.interp(even, np.arange(moments), column) for column in path.T], axis=1)
    path -= path.mean(axis=0)
    return ShakePath(_homographies(path, h, w), length_px)


def _extent(points: NDArray[np.float64]) -> float:
    """Largest distance between two of (n, 2) points."""
    gaps = points[:, None] - points[None]
    return float(np.sqrt((gaps**2).sum(-1).max()))


def _homographies(path: NDArray[np.float64], h: int, w: int) -> NDArray[np.float64]:
    """K (R + t n^T / d) K^-1 for each moment; path: (n, 4) pixels of x, y, roll and zoom displacement."""
    focal = float(max(h, w))
    half_diagonal = np.hypot(h, w) / 2
    camera = np.array([[focal, 0, (w - 1) / 2], [0, focal, (h - 1) / 2], [0, 0, 1]])
    inverse = np.linalg.inv(camera)
    out = np.empty((len(path), 3, 3))
    for i, (x, y, roll_px, zoom_px) in enumerate(path):
        yaw, pitch, roll = TILT_SHARE * x / focal, -TILT_SHARE * y / focal, roll_px / half_diagonal
        rotation, _ = cv2.Rodrigues(np.array([pitch, yaw, roll]))
        rotation[:, 2] += np.array(
            [(1 - TILT_SHARE) * x / focal, (1 - TILT_SHARE) * y / focal, -zoom_px / half_diagonal]
        )
        out[i] = camera @ rotation @ inverse
    return out


def shake(sharp: Linear, path: ShakePath, window: Window, origin: tuple[int, int] = (0, 0)) -> Linear:
    """The window of the frame as the shaken camera sees it, in linear light.

    sharp: (h, w, 3) linear light, the frame or the part of it whose top left corner stands at ``origin``.
    Returns (window.height, window.width, 3).
    """
    to_frame = _translation(window.left, window.top)
    to_part = _translation(-origin[1], -origin[0])
    total = np.zeros((window.height, window.width, 3), np.float32)
    for homography in path.homographies:
        view = cv2.warpPerspective(
            sharp,
            to_part @ homography @ to_frame,
            (window.width, window.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        cv2.accumulate(view, total)
    return total / np.float32(len(path.homographies))


def _translation(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def add_noise(linear: Linear, noise: SensorNoise, rng: np.random.Generator) -> Linear:
    """Shot and read noise added to (h, w, 3) linear light."""
    deviation = np.sqrt(noise.shot * np.maximum(linear, 0) + noise.read**2).astype(np.float32)
    noisy: Linear = linear + deviation * rng.standard_normal(linear.shape, dtype=np.float32)
    return noisy


def to_bytes(linear: Linear) -> Image:
    """8-bit sRGB of linear light, rounded to nearest."""
    return np.rint(linear_to_srgb(linear) * 255).astype(np.uint8)


def to_linear(image: Image) -> Linear:
    """Linear light of an 8-bit sRGB image."""
    return BYTE_TO_LINEAR[image]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShakeModel:
    """Camera shake with sensor noise, at random strengths."""

    min_length_px: float = 2.0
    """Shortest shake at the centre of the frame, in pixels."""
    max_length_px: float = 20.0
    """Longest shake at the centre of the frame, in pixels."""
    max_shot: float = 2e-4
    """Largest shot noise; variance at white, in linear light."""
    max_read: float = 1.5e-3
    """Largest read noise; standard deviation in linear light."""

    def __call__(self, frame: Image, window: Window, rng: np.random.Generator) -> Image:
        """The window of a sharp (h, w, 3) frame as a shaken, noisy camera would have stored it."""
        length = rng.uniform(self.min_length_px, self.max_length_px)
        path = shake_path(rng, length, frame.shape[:2])
        noise = SensorNoise(shot=rng.uniform(0, self.max_shot), read=rng.uniform(0, self.max_read))
        margin = int(np.ceil(length)) + 8
        top, left = max(0, window.top - margin), max(0, window.left - margin)
        part = frame[top : window.top + window.height + margin, left : window.left + window.width + margin]
        blurred = shake(to_linear(part), path, window, origin=(top, left))
        return to_bytes(add_noise(blurred, noise, rng))


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseModel:
    """White Gaussian noise in the encoded values, of random strength, as the denoising literature has it."""

    min_sigma: float = 5.0
    """Smallest standard deviation, in steps of 8 bits."""
    max_sigma: float = 50.0
    """Largest standard deviation, in steps of 8 bits."""

    def __call__(self, frame: Image, window: Window, rng: np.random.Generator) -> Image:
        """The window of a sharp (h, w, 3) frame with noise, clipped and rounded to 8 bits."""
        sigma = rng.uniform(self.min_sigma, self.max_sigma)
        part = frame[window.top : window.top + window.height, window.left : window.left + window.width]
        noisy = part + np.float32(sigma) * rng.standard_normal(part.shape, dtype=np.float32)
        return np.rint(noisy).clip(0, 255).astype(np.uint8)
