"""PSNR by hand, SSIM against scikit-image and against its definition written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.metrics import structural_similarity

from netgraft.errors import ConfigError, ImageError
from netgraft.imaging import psnr_db, ssim

VARIANTS = ("matlab", "nafnet_3d")


def photo(seed: int, shape: tuple[int, int] = (40, 33), dtype: type = np.uint8) -> np.ndarray:
    """Smooth color gradients with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / 10
    waves = np.stack([np.sin(x + c) + np.cos(y * (c + 1) / 2) for c in range(3)], axis=-1)
    value = 0.5 + 0.2 * waves + 0.05 * rng.standard_normal((*shape, 3))
    return (value.clip(0, 1) * np.iinfo(dtype).max).astype(dtype)


images = arrays.arrays(np.uint8, st.tuples(st.integers(11, 16), st.integers(11, 16), st.just(3)))


@st.composite
def pairs_of_images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    first = draw(images)
    return first, draw(arrays.arrays(np.uint8, first.shape))


def test_psnr_by_hand() -> None:
    """One value of 12 off by 6: mean squared error 3, so 10 log10(255^2 / 3)."""
    clean = np.full((2, 2, 3), 100, np.uint8)
    restored = clean.copy()
    restored[0, 1, 2] = 94
    assert psnr_db(restored, clean) == pytest.approx(10 * math.log10(65025 / 3), abs=1e-12)
    assert psnr_db(clean.astype(np.uint16), restored.astype(np.uint16)) == pytest.approx(
        10 * math.log10(65535**2 / 3), abs=1e-12
    )


def test_psnr_of_black_and_white_is_zero() -> None:
    black = np.zeros((3, 4, 3), np.uint8)
    assert psnr_db(black, black + np.uint8(255)) == 0


def test_psnr_does_not_wrap_around() -> None:
    """In uint8 arithmetic 3 - 5 would be 254."""
    assert psnr_db(np.full((1, 1, 3), 3, np.uint8), np.full((1, 1, 3), 5, np.uint8)) == pytest.approx(
        10 * math.log10(65025 / 4)
    )


@pytest.mark.parametrize(("dtype", "peak"), [(np.uint8, 255), (np.uint16, 65535)])
def test_matlab_variant_agrees_with_scikit_image(dtype: type, peak: int) -> None:
    """scikit-image too drops the border that the window does not fit into."""
    restored, clean = photo(1, dtype=dtype), photo(2, dtype=dtype)
    expected = structural_similarity(
        restored,
        clean,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=peak,
        channel_axis=2,
    )
    assert ssim(restored, clean) == pytest.approx(expected, abs=1e-9)


def test_3d_variant_agrees_with_its_definition() -> None:
    """Every window summed up directly, in loops, on an image smaller than the window."""
    restored, clean = photo(3, (7, 9)), photo(4, (7, 9))
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / 4.5)
    cube = line[:, None, None] * line[None, :, None] * line[None, None, :]
    cube /= cube.sum()
    x, y = (np.pad(i.astype(float), 5, mode="edge") for i in (restored, clean))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i, j, k in np.ndindex(restored.shape):
        a, b = x[i : i + 11, j : j + 11, k : k + 11], y[i : i + 11, j : j + 11, k : k + 11]
        ma, mb = (cube * a).sum(), (cube * b).sum()
        va, vb, cov = (
            (cube * a * a).sum() - ma**2,
            (cube * b * b).sum() - mb**2,
            (cube * a * b).sum() - ma * mb,
        )
        values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert ssim(restored, clean, variant="nafnet_3d") == pytest.approx(np.mean(values), abs=1e-9)


def test_the_variants_differ() -> None:
    restored, clean = photo(1), photo(2)
    assert abs(ssim(restored, clean, "matlab") - ssim(restored, clean, "nafnet_3d")) > 1e-3


@given(pair=pairs_of_images())
def test_metrics_are_symmetric_and_bounded(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    assert psnr_db(first, second) == psnr_db(second, first) >= 0
    for variant in VARIANTS:
        value = ssim(first, second, variant)
        assert value == ssim(second, first, variant)
        assert -1 <= value <= 1


@given(image=images)
def test_equal_images_are_perfect(image: np.ndarray) -> None:
    assert psnr_db(image, image.copy()) == math.inf
    for variant in VARIANTS:
        assert ssim(image, image.copy(), variant) == 1


def test_images_that_cannot_be_compared_are_refused() -> None:
    a = photo(1)
    for metric in (psnr_db, ssim):
        with pytest.raises(ImageError, match="40x33x3 and 40x32x3"):
            metric(a, a[:, :32])
        with pytest.raises(ImageError, match="uint8 and uint16"):
            metric(a, a.astype(np.uint16))
        with pytest.raises(ImageError, match="float64"):
            metric(a / 255, a / 255)
        with pytest.raises(ImageError, match="RGB"):
            metric(a[..., 0], a[..., 0])
    with pytest.raises(ImageError, match="11x11"):
        ssim(a[:10], a[:10])
    with pytest.raises(ConfigError, match="did you mean 'matlab'"):
        ssim(a, a, "mathlab")
