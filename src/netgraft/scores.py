"""How close restored images come to clean ones: scores of each image, their means with intervals, and differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from netgraft.errors import DatasetError
from netgraft.imaging import RgbImage, mae, psnr_db, ssim
from netgraft.imaging.align import align
from netgraft.intervals import Estimate

Bits = Literal[8, 16]
FIGURES = ("psnr_db", "ssim", "ssim_matlab", "mae", "lpips")
"""What an image is scored by; lower is better for the last two."""


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
    scene: str = ""
    """What it is a frame of, e.g. a video; empty where every image is a scene of its own."""


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

    def estimate(self, figure: str = "psnr_db") -> Estimate:
        """That mean with its 95 % interval."""
        return Estimate.of(self.values(figure), scenes=self.scenes)

    def less(self, other: Evaluation, figure: str = "psnr_db") -> Estimate:
        """The mean of what these scores are above others, image by image, with its 95 % interval.

        Raises:
            DatasetError: they are not of the same images.
        """
        if self.names != other.names:
            raise DatasetError("the two evaluations are not of the same images: evaluate both again, together")
        return Estimate.of(self.values(figure), other.values(figure), self.scenes)

    @property
    def scenes(self) -> tuple[str, ...]:
        """The scene of every image; empty where not all are known."""
        found = tuple(score.scene for score in self.scores)
        return found if all(found) else ()

    @property
    def resampled(self) -> str:
        """What the intervals resample, in words."""
        count = len(set(self.scenes))
        return f"over {count} scenes" if count > 1 else "over images"

    @property
    def figures(self) -> tuple[str, ...]:
        """Those of ``FIGURES`` that every image has."""
        return tuple(f for f in FIGURES if all(getattr(score, f) is not None for score in self.scores))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images."""
        return tuple(score.name for score in self.scores)

    def groups(self) -> dict[str, Evaluation]:
        """The scores of each group by its name; empty if the data set has none."""
        names = dict.fromkeys(score.group for score in self.scores if score.group)
        return {name: Evaluation(scores=tuple(s for s in self.scores if s.group == name)) for name in names}

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

    def __call__(
        self, name: str, restored: RgbImage, clean: RgbImage, *, group: str = "", scene: str = ""
    ) -> ImageScore:
        """Compare an (h, w, 3) image with the clean one; the names are passed on.

        Raises:
            ImageError: the two differ in size, are too small, or cannot be aligned.
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
                scene=scene,
            )
        return ImageScore(
            name=name,
            psnr_db=psnr_db(restored, clean),
            ssim=ssim(restored, clean, variant="nafnet_3d"),
            ssim_matlab=ssim(restored, clean, variant="matlab"),
            mae=mae(restored, clean),
            lpips=None if self.lpips is None else self.lpips(eight_bits(restored), eight_bits(clean)),
            group=group,
            scene=scene,
        )


def eight_bits(image: RgbImage) -> NDArray[np.uint8]:
    """An (h, w, c) uint8 or uint16 image in 8 bits: 65535 becomes 255, and what lies between is rounded."""
    if image.dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


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
    values = degraded.values()
    bins = []
    for part in np.array_split(np.argsort(values, kind="stable"), count):
        chosen = sorted(int(i) for i in part)
        some = {
            name: Evaluation(scores=tuple(scored.scores[i] for i in chosen)) for name, scored in evaluations.items()
        }
        bins.append(Bin(low_db=values[part[0]], high_db=values[part[-1]], evaluations=some))
    return bins
