"""Means, intervals, differences and bins of scores: by hand, and against scipy's bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from netgraft.errors import DatasetError
from netgraft.intervals import Estimate, paired_interval
from netgraft.scores import Evaluation, ImageScore, Scorer, difficulty_bins


def evaluation(**psnrs_db: float) -> Evaluation:
    return Evaluation(
        scores=tuple(ImageScore(name=name, psnr_db=psnr, ssim=0.5, ssim_matlab=0.4) for name, psnr in psnrs_db.items())
    )


def test_intervals_agree_with_another_bootstrap() -> None:
    values = np.random.default_rng(1).normal(30, 3, 40)
    scored = evaluation(**{f"i{n}": value for n, value in enumerate(values)})
    other = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2))
    found = scored.estimate()
    assert (found.low, found.high) == pytest.approx(tuple(other.confidence_interval), abs=0.05)


def test_a_difference_in_pairs_hides_nothing() -> None:
    """Images differ by tens of dB; a network that is 1 dB better on each is better for sure."""
    first = evaluation(a=21, b=31, c=41)
    second = evaluation(a=20, b=30, c=40)
    assert first.less(second) == Estimate(1, 1, 1)
    with pytest.raises(DatasetError, match="not of the same images"):
        first.less(evaluation(a=20, b=30, d=40))


def test_many_images_are_drawn_in_parts() -> None:
    values = np.arange(3000.0)
    low, high = paired_interval(list(values), list(np.zeros(3000)), draws=500)
    error = values.std() / math.sqrt(3000)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_equal_images_have_no_interval() -> None:
    found = evaluation(a=20, b=math.inf).estimate()
    assert math.isnan(found.low)
    assert found.as_dict() == {"mean": None, "low": None, "high": None}
    assert evaluation(a=20, b=math.inf).less(evaluation(a=19, b=math.inf)).mean == 0.5


def test_frames_are_resampled_by_scene() -> None:
    """Of 11 videos whose frames hardly differ, the interval is that of 11 numbers, not of 1111."""
    rng = np.random.default_rng(3)
    means = rng.normal(30, 1, 11)
    scenes = [str(n) for n in range(11) for _ in range(101)]
    frames = [float(means[int(scene)] + rng.normal(0, 0.01)) for scene in scenes]
    by_scene, by_frame = Estimate.of(frames, scenes=scenes), Estimate.of(frames)
    whole = Estimate.of(list(means))
    assert (by_scene.low, by_scene.high) == pytest.approx((whole.low, whole.high), abs=0.05)
    assert by_scene.high - by_scene.low > 5 * (by_frame.high - by_frame.low)


def test_images_of_one_name_stay_apart() -> None:
    twice = Evaluation(
        scores=tuple(ImageScore(name="a", psnr_db=psnr, ssim=0.5, ssim_matlab=0.4) for psnr in (10.0, 20.0))
    )
    first, second = difficulty_bins({"network": twice}, twice, 2)
    assert (first.evaluations["network"].mean(), second.evaluations["network"].mean()) == (10, 20)


def test_bins_begin_with_the_hardest() -> None:
    degraded = evaluation(a=30, b=10, c=20, d=40, e=50)
    restored = evaluation(a=33, b=11, c=22, d=44, e=55)
    first, second = difficulty_bins({"network": restored}, degraded, 2)
    assert (first.low_db, first.high_db) == (10, 30)
    assert set(first.evaluations["network"].names) == {"a", "b", "c"}
    assert (second.low_db, second.high_db) == (40, 50)
    assert second.evaluations["network"].mean() == 49.5
    with pytest.raises(DatasetError, match="5 images cannot be parted into 6"):
        difficulty_bins({}, degraded, 6)


def test_scores_of_older_versions_lack_some_figures() -> None:
    old = Evaluation.from_rows([{"name": "a", "psnr_db": 20.0, "ssim": 0.5, "ssim_matlab": 0.4}])
    assert old.figures == ("psnr_db", "ssim", "ssim_matlab")
    with pytest.raises(DatasetError, match="mae was not computed"):
        old.mean("mae")


def test_sixteen_bits_are_compared_as_they_are() -> None:
    """One step of 16 bits is 1 / 65535 of the range; in 8 bits it vanishes."""
    clean = np.full((12, 12, 3), 257 * 100, np.uint16)
    wide = Scorer(bits=16)("a", clean + np.uint16(1), clean)
    assert wide.psnr_db == pytest.approx(20 * math.log10(65535))
    assert wide.mae == pytest.approx(1 / 65535)
    assert math.isinf(Scorer(bits=8)("a", clean + np.uint16(1), clean).psnr_db)


def test_a_perceptual_distance_is_asked_for_in_8_bits() -> None:
    clean = np.full((12, 12, 3), 257 * 100, np.uint16)
    score = Scorer(bits=16, lpips=lambda restored, target: float(restored[0, 0, 0]) - float(target[0, 0, 0]))(
        "a", clean + np.uint16(257 * 3), clean, group="indoor"
    )
    assert (score.lpips, score.group) == (3, "indoor")
