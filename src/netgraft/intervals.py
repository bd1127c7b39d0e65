"""A mean over images, with what the choice of images alone could have made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from netgraft.errors import DatasetError

DRAWS = 10_000
"""Resamplings of a bootstrap interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over images with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float], less: Sequence[float] | None = None, scenes: Sequence[str] = ()) -> Estimate:
        """The mean of ``values``, or of what they are above ``less``, image by image.

        The interval resamples images, or whole ``scenes`` (one name an image) where these are frames of a few videos:
        frames that look alike are no independent evidence. Of fewer than about ten it comes out too narrow.

        Raises:
            DatasetError: there are no values, or not as many of all.
        """
        gaps = _gaps(values, [0.0] * len(values) if less is None else less)
        low, high = _interval(gaps, _clusters(scenes, len(gaps)), 0, DRAWS)
        return Estimate(float(np.mean(gaps)), low, high)

    def as_dict(self) -> dict[str, float | None]:
        """Plain data, for JSON: what is not finite becomes None."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}

    def text(self, digits: int = 2, *, sign: bool = False) -> str:
        """``1.23 [1.20, 1.26]``."""
        plus = "+" if sign else ""
        mean, low, high = (f"{value:{plus}.{digits}f}" for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if math.isfinite(self.low) else mean


def paired_interval(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0, draws: int = DRAWS
) -> tuple[float, float]:
    """95 % bootstrap interval, over images, of the mean of ``first - second``: (low, high).

    Raises:
        DatasetError: the two are empty, or not of the same images.
    """
    gaps = _gaps(first, second)
    return _interval(gaps, _clusters((), len(gaps)), seed, draws)


def _gaps(first: Sequence[float], second: Sequence[float]) -> NDArray[np.float64]:
    if len(first) != len(second) or not len(first):
        raise DatasetError(f"scores of {len(first)} and {len(second)} images cannot be compared in pairs")
    both = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    # Equal images have an infinite PSNR, and where both networks give them there is no difference.
    return np.where(both[0] == both[1], 0.0, np.subtract(*both, where=both[0] != both[1], out=np.zeros(len(first))))


def _clusters(scenes: Sequence[str], count: int) -> NDArray[np.int64]:
    """Number of the scene of every image; each image is one of its own where no two scenes are known."""
    if len(scenes) != count or len(set(scenes)) < 2:
        return np.arange(count)
    names = list(dict.fromkeys(scenes))
    return np.array([names.index(scene) for scene in scenes])


def _interval(values: NDArray[np.float64], clusters: NDArray[np.int64], seed: int, draws: int) -> tuple[float, float]:
    """(low, high) of the mean of the values, clusters resampled whole; not finite where a value is not."""
    if not np.isfinite(values).all():
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    sums, sizes = np.bincount(clusters, values), np.bincount(clusters)
    # In parts: the draws of thousands of images would fill the memory otherwise.
    part = max(1, 2**20 // len(sums))
    means = []
    for first in range(0, draws, part):
        picks = rng.integers(len(sums), size=(min(part, draws - first), len(sums)))
        means.append(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
