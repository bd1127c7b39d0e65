"""Conditions that a network was not trained for: other blurs, and noise, compression and exposure on top of its own.

Each condition makes a degraded crop and its clean version from a test image, by the generator that it is given
alone. Blurs are made anew from the clean image; what comes on top is applied to the image's own degraded version, so
that nothing else changes. With the same generator state, the bins of a shake's length are the same motion at
different lengths.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from netgraft.data.crops import cut
from netgraft.data.defocus import DefocusModel
from netgraft.data.degrade import (
    Degradation,
    Image,
    SensorNoise,
    ShakeModel,
    ShakePath,
    Window,
    add_noise,
    shake,
    to_bytes,
    to_linear,
)
from netgraft.data.images import SHARP_SOURCES, DataConfig, ImagePair

TRAINED = "as trained"
"""The kind of the first condition: the test images as they are."""
LENGTHS_PX = ((2.0, 5.0), (5.0, 10.0), (10.0, 20.0), (20.0, 30.0))
"""Bins of the shake's length at the center of the frame, in pixels."""
DIRECTIONS_DEG = {"horizontal": (0.0,), "diagonal": (45.0, 135.0), "vertical": (90.0,)}
"""Directions of straight shakes; one of several is drawn."""
SPREAD_DEG = 15.0
"""A straight shake leaves its direction by at most this."""
RADII_PX = ((1.0, 3.0), (3.0, 6.0))
"""Bins of the defocus: radius of the disc in pixels, everywhere at least the smaller."""
SIGMAS = ((2.0, 5.0), (5.0, 10.0), (10.0, 20.0))
"""Bins of the added Gaussian noise: standard deviation in sRGB values of 0 to 255."""
QUALITIES = ((75, 90), (50, 75), (25, 50))
"""Bins of the JPEG quality, as libjpeg counts it; chroma at half resolution."""
STOPS = (-1.0, 1.0)
"""Exposures: the light times 2 to this power, clipped at white; the clean image is exposed alike."""

View = Callable[[ImagePair, Window, np.random.Generator], tuple[Image, Image]]
"""The degraded and the clean window of an image pair, both (window.height, window.width, 3) uint8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One way in which test images are degraded."""

    kind: str
    """What is varied, e.g. ``shake length``."""
    name: str
    """The bin of it, e.g. ``5-10 px``."""
    difficulty: int = 0
    """Place within its kind, the easiest first; equal ones have no order."""
    trained_on: bool = False
    """Whether the training crops were degraded so, as far as the config tells."""
    view: View
    """Makes the crops."""


def conditions_of(config: DataConfig) -> tuple[Condition, ...]:
    """All conditions for a network that is trained on this data; the test images as they are come first."""
    blur = config.degradation if config.source in SHARP_SOURCES else ""
    least, most = config.strength_px
    lengths = ShakeModel(min_length_px=least, max_length_px=most) if blur == "shake" else ShakeModel()

    def covered(by: str, low: float, high: float) -> bool:
        return blur == by and least <= low and high <= most

    return (
        Condition(kind=TRAINED, name="test images", trained_on=True, view=as_it_is),
        *(
            Condition(
                kind="shake length",
                name=f"{low:g}-{high:g} px",
                difficulty=place,
                trained_on=covered("shake", low, high),
                view=partial(blurred, ShakeModel(min_length_px=low, max_length_px=high)),
            )
            for place, (low, high) in enumerate(LENGTHS_PX)
        ),
        *(
            Condition(
                kind="straight shake",
                name=name,
                trained_on=blur == "shake",
                view=partial(blurred, StraightShake(directions_deg=directions, strength=lengths)),
            )
            for name, directions in DIRECTIONS_DEG.items()
        ),
        *(
            Condition(
                kind="defocus",
                name=f"{low:g}-{high:g} px",
                difficulty=place,
                trained_on=covered("defocus", low, high),
                view=partial(blurred, DefocusModel(min_radius_px=low, max_radius_px=high)),
            )
            for place, (low, high) in enumerate(RADII_PX)
        ),
        *(
            Condition(kind="noise", name=f"{low:g}-{high:g} of 255", difficulty=place, view=partial(noisy, low, high))
            for place, (low, high) in enumerate(SIGMAS)
        ),
        *(
            Condition(kind="JPEG", name=f"quality {high}-{low}", difficulty=place, view=partial(compressed, low, high))
            for place, (low, high) in enumerate(QUALITIES)
        ),
        *(
            Condition(kind="exposure", name=f"{stops:+g} stop", difficulty=place, view=partial(exposed, stops))
            for place, stops in enumerate(STOPS)
        ),
    )


def views_of(images: Sequence[ImagePair], condition: Condition, *, size: tuple[int, int], seed: int) -> list[ImagePair]:
    """The center crops of 8-bit images under a condition; size: (h, w), or the image's where that is smaller.

    An image's crop depends on its name and the seed, not on the other images or conditions.
    """
    made = []
    for image in images:
        rng = np.random.default_rng((seed, zlib.crc32(image.name.encode())))
        degraded, clean = condition.view(image, center_window(image.clean.shape[:2], size), rng)
        made.append(ImagePair(name=image.name, degraded=degraded, clean=clean))
    return made


def center_window(frame: tuple[int, ...], size: tuple[int, int]) -> Window:
    """The window of this size, (h, w), in the middle of a frame, or the frame's own where that is smaller."""
    height, width = (min(side, whole) for side, whole in zip(size, frame, strict=True))
    return Window(top=(frame[0] - height) // 2, left=(frame[1] - width) // 2, height=height, width=width)


@dataclass(frozen=True, slots=True, kw_only=True)
class StraightShake:
    """A camera that moves along a straight line at constant speed, parallel to the image plane, with sensor noise."""

    directions_deg: tuple[float, ...]
    """Directions to draw from, in degrees from the horizontal."""
    strength: ShakeModel
    """Whose lengths and noise are drawn."""

    def __call__(self, frame: Image, window: Window, rng: np.random.Generator) -> Image:
        """The window of a sharp (h, w, 3) frame as that camera would have stored it."""
        model = self.strength
        length = rng.uniform(model.min_length_px, model.max_length_px)
        direction = float(rng.choice(self.directions_deg)) + rng.uniform(-SPREAD_DEG, SPREAD_DEG)
        noise = SensorNoise(shot=rng.uniform(0, model.max_shot), read=rng.uniform(0, model.max_read))
        margin = int(np.ceil(length)) + 2
        top, left = max(0, window.top - margin), max(0, window.left - margin)
        part = frame[top : window.top + window.height + margin, left : window.left + window.width + margin]
        moved = shake(to_linear(part), straight_path(length, direction), window, origin=(top, left))
        return to_bytes(add_noise(moved, noise, rng))


def straight_path(length_px: float, direction_deg: float) -> ShakePath:
    """A centered straight motion of this length, with at most a pixel between two moments."""
    moments = int(np.ceil(length_px)) + 1
    along = np.linspace(-length_px / 2, length_px / 2, moments)
    homographies: NDArray[np.float64] = np.tile(np.eye(3), (moments, 1, 1))
    homographies[:, 0, 2] = along * np.cos(np.deg2rad(direction_deg))
    homographies[:, 1, 2] = along * np.sin(np.deg2rad(direction_deg))
    return ShakePath(homographies, length_px)


def as_it_is(pair: ImagePair, window: Window, rng: np.random.Generator) -> tuple[Image, Image]:
    """The windows of a pair of 8-bit images."""
    return cut(pair.degraded, window), cut(pair.clean, window)  # type: ignore[return-value]


def blurred(degradation: Degradation, pair: ImagePair, window: Window, rng: np.random.Generator) -> tuple[Image, Image]:
    """The clean window, degraded anew."""
    clean: Image = pair.clean  # type: ignore[assignment]
    return degradation(clean, window, rng), as_it_is(pair, window, rng)[1]


def noisy(least: float, most: float, pair: ImagePair, window: Window, rng: np.random.Generator) -> tuple[Image, Image]:
    """Gaussian noise on the degraded window, with a standard deviation between these sRGB values of 0 to 255."""
    degraded, clean = as_it_is(pair, window, rng)
    deviation = np.float32(rng.uniform(least, most))
    noise = deviation * rng.standard_normal(degraded.shape, dtype=np.float32)
    return np.clip(np.rint(degraded + noise), 0, 255).astype(np.uint8), clean


def compressed(least: int, most: int, pair: ImagePair, window: Window, rng: np.random.Generator) -> tuple[Image, Image]:
    """The degraded window, stored as JPEG with a quality between these."""
    degraded, clean = as_it_is(pair, window, rng)
    quality = int(rng.integers(least, most, endpoint=True))
    # OpenCV orders channels the other way round.
    _, file = cv2.imencode(".jpg", degraded[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    read = cv2.imdecode(file, cv2.IMREAD_COLOR)
    assert read is not None, "it was written just now"
    return np.ascontiguousarray(read[..., ::-1], np.uint8), clean


def exposed(stops: float, pair: ImagePair, window: Window, rng: np.random.Generator) -> tuple[Image, Image]:
    """Both windows with their light times ``2**stops``, clipped at white: what is restored is the blur."""
    degraded, clean = (to_bytes(to_linear(part) * np.float32(2**stops)) for part in as_it_is(pair, window, rng))
    return degraded, clean
