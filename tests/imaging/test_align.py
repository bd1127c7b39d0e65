"""Alignment as RealBlur's authors do it: known homographies and gains are undone, and scored where both have pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from netgraft.data.photos import photos
from netgraft.errors import ImageError
from netgraft.imaging import psnr_db, ssim
from netgraft.imaging.align import align


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    image = photos("test")[0].image
    return np.ascontiguousarray(cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA))


def moved(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return cv2.warpPerspective(
        image, matrix, (image.shape[1], image.shape[0]), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def farthest(a: np.ndarray, b: np.ndarray) -> float:
    """How far apart two homographies put a corner of the photograph, in pixels."""
    corners = np.array([[0, 0, 1], [319, 0, 1], [0, 239, 1], [319, 239, 1]]).T
    (first, second) = ((matrix @ corners)[:2] / (matrix @ corners)[2] for matrix in (a, b))
    return float(np.linalg.norm(first - second, axis=0).max())


def test_what_lies_right_stays(photo: np.ndarray) -> None:
    """Rounding apart, an aligned score of aligned images is the plain one."""
    noisy = np.clip(photo + np.random.default_rng(0).normal(0, 8, photo.shape), 0, 255).astype(np.uint8)
    aligned = align(noisy, photo)
    assert farthest(aligned.homography, np.eye(3)) < 0.1
    gain = float(np.sum(photo.astype(float) * noisy) / np.sum(noisy.astype(float) ** 2))
    scaled = (noisy * gain).clip(0, 255).astype(np.uint8)
    assert aligned.psnr_db == pytest.approx(psnr_db(scaled, photo), abs=0.3)
    assert aligned.ssim("matlab") == pytest.approx(ssim(scaled, photo), abs=0.02)


def test_a_shifted_and_darker_image_scores_as_it_deserves(photo: np.ndarray) -> None:
    matrix = np.array([[1.002, 0.003, 4.3], [-0.002, 0.999, -2.6], [1e-6, -2e-6, 1]])
    there = moved(photo, matrix)
    darker = (there * 0.8).round().astype(np.uint8)
    aligned = align(darker, photo)
    assert farthest(aligned.homography, matrix) < 0.2
    assert psnr_db(darker, photo) < 20
    assert aligned.psnr_db > 27
    assert 0.97 < aligned.mask.mean() < 1


def test_only_what_both_cover_counts(photo: np.ndarray) -> None:
    """The definition written out: squared errors within the mask over its sum."""
    aligned = align(moved(photo, np.array([[1, 0, 7.0], [0, 1, 0], [0, 0, 1]])), photo)
    error = ((aligned.restored - aligned.clean) ** 2).sum() / aligned.mask.sum()
    assert aligned.psnr_db == pytest.approx(-10 * math.log10(error))
    assert aligned.mae == pytest.approx(np.abs(aligned.restored - aligned.clean).sum() / aligned.mask.sum())
    _, similarity = structural_similarity(
        aligned.restored,
        aligned.clean,
        channel_axis=2,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    inner = (slice(5, -5), slice(5, -5))
    expected = (similarity * aligned.mask)[inner].sum() / aligned.mask[inner].sum()
    assert aligned.ssim("matlab") == pytest.approx(expected, abs=1e-6)


def test_what_cannot_be_aligned_is_refused(photo: np.ndarray) -> None:
    with pytest.raises(ImageError, match="must be equal"):
        align(photo, photo[1:])
    with pytest.raises(ImageError, match="black"):
        align(np.zeros_like(photo), photo)
    with pytest.raises(ImageError, match="one color"):
        align(np.full_like(photo, 7), photo)
    noise = np.random.default_rng(0).integers(0, 256, photo.shape).astype(np.uint8)
    flipped = np.ascontiguousarray(255 - photo)
    with pytest.raises(ImageError, match=r"same scene|overlap"):
        align(flipped, photo)
    with pytest.raises(ImageError, match=r"same scene|overlap"):
        align(noise, np.random.default_rng(1).integers(0, 256, photo.shape).astype(np.uint8))
