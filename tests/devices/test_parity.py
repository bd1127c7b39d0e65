"""When a device's output counts as that of the network that was asked for."""

import numpy as np
import pytest

from netgraft.devices.parity import disagreement

ONES = np.ones((1, 2, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("precision", "fine", "wrong"), [("fp32", 1.0005, 1.002), ("bf16", 1.04, 1.06), ("int8", 1.2, 1.4)]
)
def test_each_precision_may_be_off_so_far(precision: str, fine: float, wrong: float) -> None:
    assert disagreement(np.float32(fine) * ONES, ONES, precision) is None
    assert "differs from torch by" in (disagreement(np.float32(wrong) * ONES, ONES, precision) or "")


def test_a_single_value_that_is_cut_off_is_fine_in_8_bits() -> None:
    """One output in 100 is 2 instead of 1: an error of .1 root mean square."""
    reference = np.ones((1, 1, 10, 10), np.float32)
    restored = reference.copy()
    restored[0, 0, 3, 3] = 2
    assert disagreement(restored, reference, "int8") is None
    assert disagreement(restored, reference, "bf16") is not None


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_no_numbers_another_shape_and_nothing_are_disagreement(precision: str) -> None:
    assert disagreement(np.nan * ONES, ONES, precision) is not None
    assert disagreement(ONES[..., :1], ONES, precision) == "gives (1, 2, 2, 1) where torch gives (1, 2, 2, 2)"
    assert disagreement(ONES[:0], ONES, precision) is not None
    assert disagreement(0 * ONES, ONES, precision) is not None
