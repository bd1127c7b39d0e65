"""Test conditions: what each does to an image whose answer is known, and that nothing else decides it."""

import numpy as np
import pytest

from netgraft.data.conditions import (
    TRAINED,
    Condition,
    StraightShake,
    center_window,
    compressed,
    conditions_of,
    exposed,
    noisy,
    straight_path,
    views_of,
)
from netgraft.data.degrade import ShakeModel, Window, shake, to_linear
from netgraft.data.images import DataConfig, ImagePair
from netgraft.imaging import psnr_db

SIZE = (96, 96)
WHOLE = Window(top=0, left=0, height=64, width=64)


def textured(name: str = "a", side: int = 160) -> ImagePair:
    """Smooth random texture; the degraded version differs by one step."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(20, 230, (side // 4, side // 4, 3)).astype(np.uint8)
    clean = coarse.repeat(4, axis=0).repeat(4, axis=1)
    return ImagePair(name=name, degraded=clean + np.uint8(1), clean=clean)


def flat(value: int, degraded: int | None = None) -> ImagePair:
    clean = np.full((64, 64, 3), value, np.uint8)
    return ImagePair(name="flat", degraded=np.full_like(clean, value if degraded is None else degraded), clean=clean)


ALL = conditions_of(DataConfig())


def by_kind(kind: str) -> list[Condition]:
    return [condition for condition in ALL if condition.kind == kind]


def test_as_trained_comes_first_and_changes_nothing() -> None:
    assert [condition.kind for condition in ALL].index(TRAINED) == 0
    (view,) = views_of([textured()], ALL[0], size=SIZE, seed=0)
    assert np.array_equal(view.clean, textured().clean[32:128, 32:128])
    assert np.array_equal(view.degraded, view.clean + 1)


@pytest.mark.parametrize("condition", ALL, ids=lambda condition: f"{condition.kind} {condition.name}")
def test_a_view_depends_on_name_and_seed_alone(condition: Condition) -> None:
    first, second = views_of([textured("a"), textured("b")], condition, size=SIZE, seed=3)
    (alone,) = views_of([textured("b")], condition, size=SIZE, seed=3)
    assert np.array_equal(second.degraded, alone.degraded)
    assert first.degraded.shape == first.clean.shape == (*SIZE, 3)
    assert first.degraded.dtype == first.clean.dtype == np.uint8
    if condition.kind not in {TRAINED, "exposure"}:
        (other,) = views_of([textured("b")], condition, size=SIZE, seed=4)
        assert not np.array_equal(other.degraded, alone.degraded)
        assert not np.array_equal(first.degraded, second.degraded)


@pytest.mark.parametrize("kind", ["shake length", "defocus", "noise", "JPEG"])
def test_harder_bins_are_farther_from_the_clean_image(kind: str) -> None:
    """The same draws serve all bins of a kind, so that one image is enough to see it."""
    conditions = sorted(by_kind(kind), key=lambda condition: condition.difficulty)
    scores = [psnr_db(v.degraded, v.clean) for c in conditions for v in views_of([textured()], c, size=SIZE, seed=0)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


def test_what_was_trained_on_is_told() -> None:
    """Shake of 2 to 20 pixels is the default; of a data set on disk nothing is known."""
    inside = [condition.name for condition in ALL if condition.trained_on and condition.kind == "shake length"]
    assert inside == ["2-5 px", "5-10 px", "10-20 px"]
    defocus = conditions_of(DataConfig(degradation="defocus", strength_px=(0, 4)))
    assert [c.name for c in defocus if c.trained_on and c.kind != TRAINED] == ["1-3 px"]


def test_a_horizontal_shake_leaves_rows_alone() -> None:
    """Stripes along the motion stay; across it they become their mean in linear light."""
    rows = np.zeros((64, 64, 3), np.uint8)
    rows[::2] = 255
    window = Window(top=16, left=16, height=32, width=32)
    along = shake(to_linear(rows), straight_path(9, 0), window)
    assert along == pytest.approx(to_linear(rows)[16:48, 16:48], abs=1e-5)
    # Ten moments a pixel apart, half of them on white.
    across = shake(to_linear(rows), straight_path(9, 90), window)
    assert across == pytest.approx(0.5, abs=1e-5)


def test_a_straight_path_is_centered_and_as_long_as_it_says() -> None:
    moves = straight_path(12.5, 135).homographies[:, :2, 2]
    assert np.linalg.norm(moves[-1] - moves[0]) == pytest.approx(12.5)
    assert moves.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert (moves[-1] - moves[0]) / 12.5 == pytest.approx([-np.sqrt(0.5), np.sqrt(0.5)])


def test_a_straight_shake_does_not_change_a_flat_image() -> None:
    still = StraightShake(directions_deg=(45.0, 135.0), strength=ShakeModel(max_shot=0, max_read=0))
    assert (still(flat(90).clean, WHOLE, np.random.default_rng(0)) == 90).all()


def test_noise_has_the_deviation_that_was_drawn() -> None:
    degraded, clean = noisy(8, 8, flat(120), WHOLE, np.random.default_rng(0))
    # Rounding adds a twelfth to the variance; 12,288 values know their deviation to 0.6 %.
    assert (degraded.astype(float) - clean).std() == pytest.approx(np.sqrt(64 + 1 / 12), rel=0.03)
    assert abs((degraded.astype(float) - clean).mean()) < 0.3


def test_jpeg_keeps_channels_in_order() -> None:
    pair = flat(0)
    pair.degraded[...] = (200, 90, 30)
    degraded, _ = compressed(90, 90, pair, WHOLE, np.random.default_rng(0))
    assert np.abs(degraded.astype(int) - pair.degraded).max() <= 2


def test_a_stop_doubles_light_in_both_and_clips() -> None:
    """sRGB 128 is 0.2159 in linear light; twice that is 176, half of it 92. 200 is 0.578: white after a stop."""
    for stops, expected in ((1, 176), (-1, 92)):
        degraded, clean = exposed(stops, flat(128, 128), WHOLE, np.random.default_rng(0))
        assert (degraded == expected).all()
        assert (clean == expected).all()
    assert (exposed(1, flat(200), WHOLE, np.random.default_rng(0))[0] == 255).all()


def test_the_window_is_in_the_middle_and_never_larger_than_the_frame() -> None:
    assert center_window((100, 201), (50, 100)) == Window(top=25, left=50, height=50, width=100)
    assert center_window((40, 201), (50, 100)) == Window(top=0, left=50, height=40, width=100)
