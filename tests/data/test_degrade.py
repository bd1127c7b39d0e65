"""Camera shake and sensor noise: centered, of the promised length, and neither adding nor losing light."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgraft.data import NoiseModel, SensorNoise, ShakeModel, Window, photos
from netgraft.data.degrade import add_noise, shake, shake_path, to_bytes, to_linear

SIDE = 129
WHOLE = Window(top=0, left=0, height=SIDE, width=SIDE)


def impulse_response(seed: int, length_px: float, at: tuple[int, int] = (SIDE // 2, SIDE // 2)) -> np.ndarray:
    """What a shake of a dark frame with one bright point looks like: (SIDE, SIDE)."""
    frame = np.zeros((SIDE, SIDE, 3), np.float32)
    frame[at] = 1
    path = shake_path(np.random.default_rng(seed), length_px, (SIDE, SIDE))
    return shake(frame, path, WHOLE)[..., 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), length_px=st.floats(2, 25))
def test_a_shaken_point_keeps_its_light_and_its_place(seed: int, length_px: float) -> None:
    """All light arrives, and its centroid is where the point was, to a small part of a pixel."""
    response = impulse_response(seed, length_px)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    light = response.sum()
    assert light == pytest.approx(1, abs=0.01)
    # Perspective leaves a part of second order: the square of the length over the size of the frame.
    tolerance = 0.05 + 0.06 * length_px**2 / SIDE
    assert abs((response * x).sum() / light) < tolerance
    assert abs((response * y).sum() / light) < tolerance


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), length_px=st.floats(3, 25))
def test_a_shaken_point_spans_the_length(seed: int, length_px: float) -> None:
    """The two lit pixels farthest apart; a moment lights four pixels, which adds sqrt(2) on either end."""
    lit = np.argwhere(impulse_response(seed, length_px) > 1e-5)
    extent = np.sqrt(((lit[:, None] - lit[None]) ** 2).sum(-1)).max()
    assert length_px - 0.5 < extent < length_px + 2 * np.sqrt(2) + 0.1


def test_points_off_the_center_stay_in_place_too() -> None:
    """Roll and zoom move a corner more than the center, yet not away on average."""
    corner = (20, 100)
    y, x = np.mgrid[:SIDE, :SIDE]
    for seed in range(10):
        response = impulse_response(seed, 12.0, corner)
        centroid = np.array([(response * y).sum(), (response * x).sum()]) / response.sum()
        np.testing.assert_allclose(centroid, corner, atol=0.2)


def test_light_adds_up_before_encoding() -> None:
    """Half black, half white blend to linear 0.5, stored as 188 in sRGB; averaging codes would give 128."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    blend = to_bytes(np.full((1, 1, 3), to_linear(stripes).mean(), np.float32))
    assert blend.tolist() == [[[188, 188, 188]]]
    model = ShakeModel(min_length_px=16, max_length_px=16, max_shot=0, max_read=0)
    window = Window(top=24, left=24, height=16, width=16)
    means = [model(stripes, window, np.random.default_rng(seed)).mean() for seed in range(8)]
    assert np.median(means) == pytest.approx(188, abs=4)


def test_a_flat_frame_stays_flat() -> None:
    """Without noise, blur of one color is that color, at the borders too."""
    flat = np.full((50, 60, 3), (30, 120, 250), np.uint8)
    model = ShakeModel(max_shot=0, max_read=0)
    for seed in range(5):
        degraded = model(flat, Window(top=0, left=0, height=50, width=60), np.random.default_rng(seed))
        np.testing.assert_array_equal(degraded, flat)


def test_the_same_generator_gives_the_same_image() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    window = Window(top=5, left=8, height=32, width=40)
    first, again, other = (ShakeModel()(frame, window, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (32, 40, 3)
    assert first.dtype == np.uint8


def test_a_window_is_a_crop_of_the_whole_frame() -> None:
    """Blurring a window alone gives what blurring the frame gives there, but for interpolation steps."""
    frame = photos("validation")[1].image[200:500, :400]
    model = ShakeModel(max_shot=0, max_read=0)
    window = Window(top=120, left=230, height=64, width=96)
    for seed in range(4):
        whole = model(frame, Window(top=0, left=0, height=300, width=400), np.random.default_rng(seed))
        part = model(frame, window, np.random.default_rng(seed))
        difference = np.abs(whole[120:184, 230:326].astype(int) - part)
        assert difference.max() <= 2
        assert difference.mean() < 0.01


def test_noise_has_the_promised_variance() -> None:
    """shot * signal + read^2; a quarter of a million samples fix a variance to about 0.3 percent."""
    noise = SensorNoise(shot=2e-4, read=1.5e-3)
    for signal in (0.0, 0.1, 0.8):
        flat = np.full((300, 300, 3), signal, np.float32)
        added = add_noise(flat, noise, np.random.default_rng(1)).astype(np.float64) - signal
        assert added.mean() == pytest.approx(0, abs=1e-4)
        assert added.var() == pytest.approx(2e-4 * signal + 1.5e-3**2, rel=0.02)


def test_bytes_survive_linear_light() -> None:
    """Every 8-bit value comes back from linear light as itself; others are rounded to the nearest."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(to_bytes(to_linear(ramp)), ramp)
    below, above = (np.float32(((code / 255 + 0.055) / 1.055) ** 2.4) for code in (100.45, 100.55))
    assert to_bytes(np.array([[[below, above, 1.5]]], np.float32)).tolist() == [[[100, 101, 255]]]


def test_gaussian_noise_has_the_deviation_that_is_asked_for() -> None:
    """On mid-gray, far from clipping, it is white: its mean is 0 and its deviation sigma, rounding included."""
    frame = np.full((200, 220, 3), 128, np.uint8)
    window = Window(top=10, left=20, height=180, width=190)
    for sigma in (0.0, 5.0, 25.0):
        noisy = NoiseModel(min_sigma=sigma, max_sigma=sigma)(frame, window, np.random.default_rng(0))
        assert (noisy.shape, noisy.dtype) == ((180, 190, 3), np.uint8)
        gap = noisy.astype(float) - 128
        assert gap.mean() == pytest.approx(0, abs=0.3)
        assert gap.std() == pytest.approx(np.sqrt(sigma**2 + (1 / 12 if sigma else 0)), rel=0.01)
        assert abs((gap[:, 1:] * gap[:, :-1]).mean()) <= 0.02 * sigma**2


def test_gaussian_noise_is_random_by_the_generator_alone_and_clipped() -> None:
    frame = np.full((32, 32, 3), 250, np.uint8)
    window = Window(top=0, left=0, height=32, width=32)
    first, second, other = (NoiseModel()(frame, window, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert first.max() == 255
    assert (first > 100).mean() > 0.9, "it does not wrap around"
