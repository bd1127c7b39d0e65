"""Means, intervals, differences and bins of scores: by hand, and against scipy's bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from netgraft.errors import DatasetError
from netgraft.scores import Evaluation, ImageScore, Scorer, difference, difficulty_bins, paired_interval


def evaluation(**psnrs_db: float) -> Evaluation:
    return Evaluation(
        scores=tuple(ImageScore(name=name, psnr_db=psnr, ssim=0.5, ssim_matlab=0.4) for name, psnr in psnrs_db.items())
    )


def test_intervals_agree_with_another_bootstrap() -> None:
    values = np.random.default_rng(1).normal(30, 3, 40)
    scored = evaluation(**{f"i{n}": value for n, value in enumerate(values)})
    other = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2))
    assert scored.interval() == pytest.approx(tuple(other.confidence_interval), abs=0.05)


def test_a_difference_in_pairs_hides_nothing() -> None:
    """Images differ by tens of dB; a network that is 1 dB better on each is better for sure."""
    first = evaluation(a=21, b=31, c=41)
    second = evaluation(a=20, b=30, c=40)
    assert difference(first, second) == {"mean": 1, "low": 1, "high": 1}
    with pytest.raises(DatasetError, match="not of the same images"):
        difference(first, evaluation(a=20, b=30, d=40))


def test_many_images_are_drawn_in_parts() -> None:
    values = np.arange(3000.0)
    low, high = paired_interval(list(values), list(np.zeros(3000)), draws=500)
    error = values.std() / math.sqrt(3000)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


def test_equal_images_have_no_interval() -> None:
    low, high = evaluation(a=20, b=math.inf).interval()
    assert math.isnan(low)
    assert math.isnan(high)


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
        "a", clean + np.uint16(257 * 3), clean, "indoor"
    )
    assert (score.lpips, score.group) == (3, "indoor")
