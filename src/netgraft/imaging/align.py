"""Scores of a restored photograph whose clean version was taken by another camera: both are laid over each other first.

This is how RealBlur is judged (Rim et al., ECCV 2020, after Köhler et al., ECCV 2012): the restored image is scaled to
the clean one's brightness, moved onto it by the homography that maximizes their enhanced correlation coefficient
(Evangelidis and Psarakis, TPAMI 2008), and compared where both have pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from netgraft.errors import ImageError
from netgraft.imaging.metrics import ssim_of

ITERATIONS = 100
"""Steps of the alignment; the authors let it make them all."""
GAUSSIAN_PX = 5
"""Side of the Gaussian that smooths both images for the alignment, in pixels."""
LEAST_OVERLAP = 0.5
"""Share of the frame that both must cover: less is no photograph of the same scene."""
LEAST_CORRELATION = 0.3
"""What both must correlate by once they are aligned."""

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Aligned:
    """A restored image that was laid over the clean one."""

    restored: Float
    """(h, w, 3) in [0, 1], zero where it has no pixels."""
    clean: Float
    """(h, w, 3) in [0, 1], zero there as well."""
    mask: Float
    """(h, w, 3): one where the restored image has pixels, else zero."""
    homography: NDArray[np.float32]
    """(3, 3): where a pixel of the clean image stands in the restored one."""

    @property
    def psnr_db(self) -> float:
        """Over what both cover; infinite for equal images."""
        error = float(((self.restored - self.clean) ** 2).sum() / self.mask.sum())
        return math.inf if error == 0 else -10 * math.log10(error)

    @property
    def mae(self) -> float:
        """Mean absolute error over what both cover, as a share of the value range."""
        return float(np.abs(self.restored - self.clean).sum() / self.mask.sum())

    def ssim(self, variant: str) -> float:
        """Structural similarity, averaged over what both cover."""
        return ssim_of(self.restored, self.clean, 1.0, variant, self.mask)


def align(restored: NDArray[np.uint8], clean: NDArray[np.uint8]) -> Aligned:
    """Lay a restored (h, w, 3) image over the clean one.

    Raises:
        ImageError: the two differ in size, or do not show the same scene.
    """
    if restored.shape != clean.shape:
        raise ImageError(f"cannot align images of shapes {restored.shape} and {clean.shape}; they must be equal")
    moving, still = (image.astype(np.float32) / np.float32(255) for image in (restored, clean))
    moving = moving * np.float32(_gain(moving, still))
    homography = _homography(still, moving)
    size = (clean.shape[1], clean.shape[0])
    warped = cv2.warpPerspective(
        moving, homography, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    mask = cv2.warpPerspective(
        np.ones_like(moving), homography, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderValue=0
    )
    if mask.mean() < LEAST_OVERLAP:
        raise ImageError(f"the two overlap on {100 * float(mask.mean()):.0f} % of the frame alone")
    return Aligned(
        restored=warped.astype(np.float64) * mask,
        clean=still.astype(np.float64) * mask,
        mask=mask.astype(np.float64),
        homography=homography,
    )


def _gain(moving: NDArray[np.float32], still: NDArray[np.float32]) -> float:
    """The factor that brings the first image nearest to the second, in the sense of least squares."""
    power = float(np.sum(moving * moving, dtype=np.float64))
    if power == 0:
        raise ImageError("the restored image is black: there is nothing to align")
    return float(np.sum(still * moving, dtype=np.float64)) / power


def _homography(still: NDArray[np.float32], moving: NDArray[np.float32]) -> NDArray[np.float32]:
    start = np.eye(3, dtype=np.float32)
    # No tolerance: a correlation that gains nothing more ends it, else the number of steps.
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, 0)
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (still, moving)]
    if min(float(image.std()) for image in gray) == 0:
        raise ImageError("an image of one color alone cannot be aligned")
    try:
        everywhere = np.ones(gray[0].shape, np.uint8)
        correlation, found = cv2.findTransformECC(
            gray[0], gray[1], start, cv2.MOTION_HOMOGRAPHY, criteria, everywhere, GAUSSIAN_PX
        )
    except cv2.error as error:
        raise ImageError("the two do not show the same scene: no homography correlates them") from error
    if correlation < LEAST_CORRELATION:
        raise ImageError(f"the two do not show the same scene: aligned at best, they correlate by {correlation:.2f}")
    return np.asarray(found, np.float32)
