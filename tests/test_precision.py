"""Which precision is delivered, and why."""

from __future__ import annotations

import math

import pytest

from netgraft.devices import Latency
from netgraft.evaluate import Evaluation, ImageScore
from netgraft.precision import Comparison, FormScore, choose, compare


def latency(q25: float, median: float, q75: float) -> Latency:
    return Latency(median_ms=median, q25_ms=q25, q75_ms=q75, cpu_median_ms=median, runs=9, contended=0.0)


def evaluation(*psnrs: float) -> Evaluation:
    return Evaluation(
        scores=tuple(ImageScore(name=str(i), psnr_db=db, ssim=0.9, ssim_matlab=0.9) for i, db in enumerate(psnrs))
    )


def comparison(loss_db: float, speedup: float | None = 2.0, *, faster: bool | None = True) -> Comparison:
    return Comparison(loss_db=loss_db, loss_interval_db=(loss_db, loss_db), speedup=speedup, faster=faster)


def test_a_form_is_compared_image_by_image() -> None:
    """Losses of 0.1 and 0.3 dB: 0.2 on average, and no resample of the two leaves their range."""
    reduced = FormScore(evaluation=evaluation(29.9, 19.7), latency=latency(4, 5, 6))
    found = compare(reduced, evaluation(30.0, 20.0), latency(9, 10, 11))
    assert found.loss_db == pytest.approx(0.2)
    assert found.loss_interval_db == pytest.approx((0.1, 0.3))
    assert found.speedup == pytest.approx(2.0)
    assert found.faster


def test_quartiles_that_overlap_are_not_measurably_faster() -> None:
    reduced = FormScore(evaluation=evaluation(30.0), latency=latency(8, 9, 9.5))
    assert compare(reduced, evaluation(30.0), latency(9.4, 10, 11)).faster is False
    alone = compare(reduced, evaluation(30.0), None)
    assert (alone.speedup, alone.faster) == (None, None)


def test_what_loses_little_and_is_faster_is_delivered() -> None:
    choice = choose({"int8": comparison(0.3)}, 0.3, single=True)
    assert (choice.form, choice.as_asked) == ("int8", True)
    assert "costs the student 0.300 dB [0.300, 0.300] against fp32 and makes it 2.00 times as fast" in choice.reason


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (comparison(0.31), "more than max_precision_loss_db = 0.3 allows: fp32 is delivered"),
        (comparison(math.nan), "more than max_precision_loss_db = 0.3 allows: fp32 is delivered"),
        (comparison(0.0, 0.9, faster=False), "which is not measurably faster: fp32 is delivered"),
        ("student: no such operator", "In int8 the device does not run the student: no such operator: fp32 is"),
    ],
)
def test_otherwise_single_precision_is(found: Comparison | str, why: str) -> None:
    choice = choose({"int8": found}, 0.3, single=True)
    assert (choice.form, choice.as_asked) == ("fp32", False)
    assert why in choice.reason


def test_a_device_without_single_precision_keeps_what_it_has_and_says_so() -> None:
    choice = choose({"int8": comparison(1.0, None, faster=None)}, 0.3, single=False)
    assert (choice.form, choice.as_asked) == ("int8", False)
    assert "does not run fp32" in choice.reason


def test_of_several_the_fastest_that_is_allowed_is_delivered() -> None:
    """As for a form of mixed precision: int8 loses too much, mixed_a is slower than mixed_b."""
    forms = {"int8": comparison(0.5, 3.0), "mixed_a": comparison(0.1, 1.5), "mixed_b": comparison(0.2, 2.0)}
    assert choose(forms, 0.3, single=True).form == "mixed_b"
