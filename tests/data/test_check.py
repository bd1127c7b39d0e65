"""Pairs that do not belong together are found; strong blur, noise and exposure are no reason to complain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalikes import folder, put
from netgraft.data import DefocusModel, ShakeModel, list_pairs, synthetic_pair
from netgraft.data.check import _gray, check_pairs, mismatch
from netgraft.data.photos import photos
from netgraft.errors import DatasetError


@pytest.mark.parametrize("photo", photos("test"), ids=lambda photo: photo.name)
def test_honest_pairs_pass(photo) -> None:  # type: ignore[no-untyped-def]
    """The strongest shake and defocus that netgraft makes, a third of the light, and heavy noise."""
    frame = photo.image
    shaken, _ = synthetic_pair(frame, ShakeModel(min_length_px=60, max_length_px=60), 1)
    blurred, _ = synthetic_pair(frame, DefocusModel(min_radius_px=10, max_radius_px=16), 1)
    noise = np.random.default_rng(0).normal(0, 60, frame.shape)
    for degraded in (shaken, blurred, frame // 3, np.clip(frame + noise, 0, 255).astype(np.uint8)):
        assert mismatch(_gray(degraded), _gray(frame)) is None


def test_other_scenes_do_not() -> None:
    first, second, *_ = (photo.image for photo in photos("test"))
    height, width = (min(n, m) for n, m in zip(first.shape[:2], second.shape[:2], strict=True))
    fault = mismatch(_gray(first[:height, :width]), _gray(second[:height, :width]))
    assert fault is not None
    assert fault.startswith("correlation")


@pytest.mark.parametrize("shift", [(40, 0), (0, -50), (30, 45)])
def test_shifted_ones_do_not(shift: tuple[int, int]) -> None:
    frame = photos("test")[0].image
    y, x = (64 + n for n in shift)
    fault = mismatch(_gray(frame[y : y + 256, x : x + 256]), _gray(frame[64:320, 64:320]))
    assert fault is not None
    assert fault.startswith("shifted by")
    across, down = (round(100 * abs(n) / 256) for n in reversed(shift))
    assert fault == f"shifted by {across} % across and {down} % down"


def test_images_of_one_value_prove_nothing() -> None:
    flat = np.full((20, 20, 3), 7, np.uint8)
    assert mismatch(_gray(flat), _gray(flat)) is None


def test_all_culprits_are_counted(tmp_path: Path) -> None:
    folder(tmp_path)
    rng = np.random.default_rng(5)
    for number in range(4, 10):
        put(tmp_path / f"degraded/{number}.png", rng.integers(0, 256, (48, 64, 3)).astype(np.uint8))
        put(tmp_path / f"clean/{number}.png", rng.integers(0, 256, (48, 64, 3)).astype(np.uint8))
    seen: list[tuple[int, int]] = []
    with pytest.raises(DatasetError, match=r"4 \(correlation .*and 3 more"):
        check_pairs(list_pairs("folder", tmp_path), threads=2, progress=lambda *step: seen.append(step))
    assert seen[-1] == (10, 10)
