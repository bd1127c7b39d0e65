"""How close restored images come to clean ones: scores of each image, their means with intervals, and differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from netgraft.errors import DatasetError
from netgraft.imaging import RgbImage, mae, psnr_db, ssim
from netgraft.imaging.align import align

Bits = Literal[8, 16]
FIGURES = ("psnr_db", "ssim", "ssim_matlab", "mae", "lpips")
"""What an image is scored by; lower is better for the last two."""
DRAWS = 10_000
"""Resamplings of a bootstrap interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScore:
    """How close one restored image comes to the clean one."""

    name: str
    """Name of the image."""
    psnr_db: float
    ssim: float
    """The 3-D Gaussian variant that NAFNet's GoPro table uses."""
    ssim_matlab: float
    """The per-channel variant of the original MATLAB code."""
    mae: float | None = None
    """Mean absolute error as a share of the value range; None in scores that older versions stored."""
    lpips: float | None = None
    """Perceptual distance; None where its weights are not at hand, or nobody asked."""
    group: str = ""
    """The part of the data set that is reported on its own, e.g. ``indoor``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores on a set of images."""

    scores: tuple[ImageScore, ...]

    def values(self, figure: str = "psnr_db") -> list[float]:
        """One of ``FIGURES`` of every image.

        Raises:
            DatasetError: the images have no such score.
        """
        found = [getattr(score, figure) for score in self.scores]
        if None in found:
            raise DatasetError(f"{figure} was not computed for these images: evaluate them again")
        return found

    def mean(self, figure: str = "psnr_db") -> float:
        """Mean over the images of one of ``FIGURES``."""
        return float(np.mean(self.values(figure)))

    def interval(self, figure: str = "psnr_db") -> tuple[float, float]:
        """95 % bootstrap interval, over images, of that mean: (low, high)."""
        return _interval(self.values(figure), 0, DRAWS)

    @property
    def figures(self) -> tuple[str, ...]:
        """Those of ``FIGURES`` that every image has."""
        return tuple(f for f in FIGURES if all(getattr(score, f) is not None for score in self.scores))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images."""
        return tuple(score.name for score in self.scores)

    def only(self, chosen: Callable[[ImageScore], bool]) -> Evaluation:
        """The scores of some of the images."""
        return Evaluation(scores=tuple(score for score in self.scores if chosen(score)))

    def groups(self) -> dict[str, Evaluation]:
        """The scores of each group by its name; empty if the data set has none."""
        names = dict.fromkeys(score.group for score in self.scores if score.group)
        return {name: self.only(lambda score, name=name: score.group == name) for name in names}  # type: ignore[misc]

    def as_rows(self) -> list[dict[str, Any]]:
        """Plain data, for JSON."""
        return [asdict(score) for score in self.scores]

    @staticmethod
    def from_rows(rows: Iterable[dict[str, Any]]) -> Evaluation:
        """The inverse of :meth:`as_rows`."""
        return Evaluation(scores=tuple(ImageScore(**row) for row in rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """What compares a restored image with the clean one."""

    bits: Bits = 8
    """Bits a channel that both are rounded to."""
    aligned: bool = False
    """Lay the restored image over the clean one first, as RealBlur's authors do."""
    lpips: Callable[[NDArray[np.uint8], NDArray[np.uint8]], float] | None = None
    """The perceptual distance of two images, or None to leave it out; of aligned images none is defined."""

    def __call__(self, name: str, restored: RgbImage, clean: RgbImage, group: str = "") -> ImageScore:
        """Compare an (h, w, 3) image with the clean one.

        Raises:
            ImageError: the two differ in size, or cannot be aligned.
        """
        if self.bits == 8:
            restored, clean = eight_bits(restored), eight_bits(clean)
        if self.aligned:
            aligned = align(eight_bits(restored), eight_bits(clean))
            return ImageScore(
                name=name,
                psnr_db=aligned.psnr_db,
                ssim=aligned.ssim("nafnet_3d"),
                ssim_matlab=aligned.ssim("matlab"),
                mae=aligned.mae,
                group=group,
            )
        return ImageScore(
            name=name,
            psnr_db=psnr_db(restored, clean),
            ssim=ssim(restored, clean, variant="nafnet_3d"),
            ssim_matlab=ssim(restored, clean, variant="matlab"),
            mae=mae(restored, clean),
            lpips=None if self.lpips is None else self.lpips(eight_bits(restored), eight_bits(clean)),
            group=group,
        )


def eight_bits(image: RgbImage) -> NDArray[np.uint8]:
    """An (h, w, c) uint8 or uint16 image in 8 bits: 65535 becomes 255, and what lies between is rounded."""
    if image.dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def paired_interval(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0, draws: int = DRAWS
) -> tuple[float, float]:
    """95 % bootstrap interval, over images, of the mean of ``first - second``: (low, high).

    Raises:
        DatasetError: the two are empty, or not of the same images.
    """
    if len(first) != len(second) or not len(first):
        raise DatasetError(f"scores of {len(first)} and {len(second)} images cannot be compared in pairs")
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return _interval(gaps, seed, draws)


def difference(first: Evaluation, second: Evaluation, figure: str = "psnr_db") -> dict[str, Any]:
    """Mean of ``first - second`` over the same images, with its 95 % interval, as ``mean``, ``low`` and ``high``.

    Raises:
        DatasetError: they are not of the same images.
    """
    if first.names != second.names:
        raise DatasetError("the two evaluations are not of the same images: evaluate both again, together")
    a, b = first.values(figure), second.values(figure)
    low, high = paired_interval(a, b)
    return {"mean": float(np.mean(np.subtract(a, b))), "low": low, "high": high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Images that are about equally hard."""

    low_db: float
    """PSNR of the hardest of them as it is, degraded."""
    high_db: float
    evaluations: Mapping[str, Evaluation]
    """The scores of these images alone, by network."""


def difficulty_bins(evaluations: Mapping[str, Evaluation], degraded: Evaluation, count: int) -> list[Bin]:
    """The images in ``count`` parts of nearly equal size, by the PSNR of the degraded image, the hardest first.

    Raises:
        DatasetError: there are fewer images than parts.
    """
    if not 1 <= count <= len(degraded.scores):
        raise DatasetError(f"{len(degraded.scores)} images cannot be parted into {count} bins; ask for fewer")
    order = np.argsort(degraded.values(), kind="stable")
    bins = []
    for part in np.array_split(order, count):
        named = {degraded.names[i] for i in part}
        values = [degraded.values()[i] for i in part]
        some = {name: scored.only(lambda s, named=named: s.name in named) for name, scored in evaluations.items()}  # type: ignore[misc]
        bins.append(Bin(low_db=min(values), high_db=max(values), evaluations=some))
    return bins


def _interval(values: Sequence[float] | NDArray[np.float64], seed: int, draws: int) -> tuple[float, float]:
    """(low, high) of the mean of the values, resampled; not finite where one of them is not."""
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    # In parts: the draws of thousands of images would fill the memory otherwise.
    part = max(1, 2**20 // len(numbers))
    sizes = [min(part, draws - first) for first in range(0, draws, part)]
    means = [numbers[rng.integers(len(numbers), size=(size, len(numbers)))].mean(axis=1) for size in sizes]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
