"""Defocus: discs of the right size and weight, radii that follow depth, windows that agree with the frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgraft.data import DefocusModel, Window, photos, synthetic_pair
from netgraft.data.defocus import defocus, depth_field, disc_kernel
from netgraft.errors import ConfigError, ImageError

SILENT = {"max_shot": 0.0, "max_read": 0.0}


@given(radius=st.floats(2, 15))
def test_a_disc_has_its_moments(radius: float) -> None:
    """A uniform disc has variance r^2 / 4 along each axis; a pixel's own width adds 1/12."""
    kernel = disc_kernel(radius).astype(np.float64)
    half = kernel.shape[0] // 2
    offsets = np.arange(-half, half + 1)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(kernel, kernel[::-1])
    np.testing.assert_array_equal(kernel, kernel.T)
    variance = (kernel.sum(axis=0) * offsets**2).sum()
    assert variance == pytest.approx(radius**2 / 4 + 1 / 12, rel=0.05)
    # Where pixels lie wholly within the disc, each gets its area over the disc's.
    assert kernel[half, half] == pytest.approx(1 / (np.pi * radius**2), rel=0.03)


def test_the_unit_disc_by_hand() -> None:
    """Of its area, pi, the middle pixel has 1 and each side sqrt(3)/2 - 1/2 + pi/6 - sqrt(3)/4 = 0.4566."""
    middle, side = 1 / np.pi, (np.sqrt(3) / 2 - 0.5 + np.pi / 6 - np.sqrt(3) / 4) / np.pi
    corner = (1 - middle - 4 * side) / 4
    expected = [[corner, side, corner], [side, middle, side], [corner, side, corner]]
    np.testing.assert_allclose(disc_kernel(1.0), expected, atol=2e-3)


def test_small_discs_are_a_point() -> None:
    for radius in (0, 0.2, 0.5):
        np.testing.assert_array_equal(disc_kernel(radius), [[1]])


def test_a_point_becomes_its_disc() -> None:
    """At a whole radius there is one layer; at 2.5 the mean of the discs of 2 and 3."""
    frame = np.zeros((31, 31, 3), np.float32)
    frame[15, 15] = 1
    for radius, expected in ((0.0, {0: 1.0}), (3.0, {3: 1.0}), (2.5, {2: 0.5, 3: 0.5})):
        image = np.zeros((31, 31))
        for layer, weight in expected.items():
            kernel = disc_kernel(layer)
            half = kernel.shape[0] // 2
            image[15 - half : 16 + half, 15 - half : 16 + half] += weight * kernel
        blurred = defocus(frame, np.full((31, 31), radius, np.float32))
        for channel in range(3):
            np.testing.assert_allclose(blurred[..., channel], image, atol=1e-6)


def test_flat_frames_stay_flat_under_any_depth() -> None:
    flat = np.full((40, 50, 3), (20, 130, 240), np.uint8)
    for seed in range(5):
        np.testing.assert_array_equal(synthetic_pair(flat, DefocusModel(**SILENT), seed)[0], flat)


def test_a_given_depth_decides_what_is_sharp() -> None:
    """A scene with a near and a far half: the one nearer to the focus is sharper, and seeds choose."""
    frame = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    depth = np.zeros((64, 128))
    depth[:, 64:] = 1
    model = DefocusModel(min_radius_px=0, max_radius_px=8, depth=depth, **SILENT)
    sharper = set()
    for seed in range(20):
        degraded, _ = synthetic_pair(frame, model, seed)
        left, right = degraded[:, :50].std(), degraded[:, -50:].std()
        if max(left, right) > 1.3 * min(left, right):
            sharper.add("left" if left > right else "right")
    assert sharper == {"left", "right"}


def test_the_radius_reaches_from_least_to_strongest() -> None:
    """With depth rising from 0 to 1, blur of a fine pattern is least somewhere and grows away from it."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 400, 3), np.uint8)
    depth = np.tile(np.linspace(0, 1, 400), (48, 1))
    degraded, _ = synthetic_pair(noise, DefocusModel(max_radius_px=6, depth=depth, **SILENT), 2)
    detail = degraded.astype(float).reshape(48, 20, 20, 3).std(axis=(0, 2)).mean(axis=1)
    sharpest = int(detail.argmax())
    assert detail[sharpest] > 2 * min(detail[0], detail[-1])
    assert (np.diff(detail[: sharpest + 1]) > -3).all()
    assert (np.diff(detail[sharpest:]) < 3).all()


def test_a_window_is_a_crop_of_the_whole_frame() -> None:
    frame = photos("validation")[1].image[250:450, :300]
    depth = np.random.default_rng(3).uniform(size=(200, 300)).astype(np.float32)
    for model in (DefocusModel(**SILENT), DefocusModel(depth=depth, **SILENT)):
        for window in (
            Window(top=60, left=90, height=64, width=80),
            Window(top=0, left=0, height=30, width=40),
            Window(top=150, left=260, height=50, width=40),
        ):
            for seed in range(3):
                whole, _ = synthetic_pair(frame, model, seed)
                part = model(frame, window, np.random.default_rng(seed))
                rows = slice(window.top, window.top + window.height)
                columns = slice(window.left, window.left + window.width)
                assert np.abs(whole[rows, columns].astype(int) - part).max() <= 1


def test_noise_is_added_and_seeded() -> None:
    flat = np.full((64, 64, 3), 128, np.uint8)
    model = DefocusModel(max_shot=1e-3, max_read=1e-2)
    first, again = (synthetic_pair(flat, model, 1)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8
    assert first.std() > 0.5
    assert abs(first.mean() - 128) < 0.5


def test_random_scenes_are_smooth_and_fill_the_range() -> None:
    """Depth changes by less than three percent a pixel on a frame of 400 pixels, and spans most of [0, 1]."""
    whole = Window(top=0, left=0, height=300, width=400)
    for seed in range(10):
        depth = depth_field(np.random.default_rng(seed)).at(whole, (300, 400))
        assert depth.min() >= 0
        assert depth.max() <= 1
        assert np.ptp(depth) > 0.95
        assert max(np.abs(np.diff(depth, axis=0)).max(), np.abs(np.diff(depth, axis=1)).max()) < 0.03


def test_wrong_settings_are_refused() -> None:
    for least, most in ((-1, 2), (3, 2), (float("nan"), 2)):
        with pytest.raises(ConfigError, match="0 <= min <= max"):
            DefocusModel(min_radius_px=least, max_radius_px=most)
    frame = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(ImageError, match="depth map"):
        synthetic_pair(frame, DefocusModel(depth=np.zeros((30, 20))), 0)
