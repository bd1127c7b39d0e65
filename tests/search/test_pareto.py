import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymoo.indicators.hv import HV

from netgraft.search import hypervolume, hypervolume_trace, knee, non_dominated

# Few distinct values, so that ties and repeated rows are common.
COSTS = st.integers(1, 4).flatmap(
    lambda m: arrays(np.float64, st.tuples(st.integers(0, 25), st.just(m)), elements=st.integers(0, 6).map(float))
)


def is_dominated(point: np.ndarray, others: np.ndarray) -> bool:
    return any(bool((other <= point).all() and (other < point).any()) for other in others)


@given(COSTS)
@settings(deadline=None)
def test_non_dominated_is_the_definition(costs: np.ndarray) -> None:
    """A row is kept exactly when no other row is as good everywhere and better somewhere."""
    expected = [not is_dominated(point, costs) for point in costs]
    assert non_dominated(costs).tolist() == expected


def test_non_dominated_over_several_blocks_in_three_objectives() -> None:
    """More rows than are compared at a time give the same answer as pairwise comparison."""
    costs = np.random.default_rng(0).random((1300, 3))
    worse = (costs[None] <= costs[:, None]).all(axis=2) & (costs[None] < costs[:, None]).any(axis=2)
    assert np.array_equal(non_dominated(costs), ~worse.any(axis=1))


def test_hypervolume_by_hand_in_two_objectives() -> None:
    """Three steps below (4, 4): 3*1 + 2*1 + 1*1 squares; a dominated and an outside point add nothing."""
    costs = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [3.0, 3.0], [0.0, 5.0]])
    assert hypervolume(costs, np.array([4.0, 4.0])) == 6.0


def test_hypervolume_by_hand_in_three_objectives() -> None:
    """Two boxes 1*2*2 and 2*1*2 that share 1*1*2 have a union of 6."""
    costs = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert hypervolume(costs, np.array([2.0, 2.0, 2.0])) == 6.0


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_agrees_with_pymoo(objectives: int) -> None:
    """Exact in any dimension, with points beyond the reference point among them."""
    costs = np.random.default_rng(objectives).random((40, objectives))
    reference = np.full(objectives, 0.8)
    inside = costs[(costs < reference).all(axis=1)]
    assert hypervolume(costs, reference) == pytest.approx(HV(ref_point=reference)(inside), rel=1e-12)


@given(COSTS)
@settings(deadline=None)
def test_trace_is_the_hypervolume_of_every_prefix(costs: np.ndarray) -> None:
    """Entry i is the hypervolume of the first i + 1 rows."""
    reference = np.full(costs.shape[1], 5.0)
    expected = [hypervolume(costs[: i + 1], reference) for i in range(len(costs))]
    assert hypervolume_trace(costs, reference) == pytest.approx(expected)


def test_nothing_has_no_hypervolume() -> None:
    assert hypervolume(np.zeros((0, 2)), np.ones(2)) == 0.0
    assert hypervolume(np.ones((1, 2)), np.ones(2)) == 0.0


def test_knee_is_nearest_to_the_ideal_corner_after_scaling() -> None:
    """Scaled to [0, 1] the second point is (0.1, 0.2); raw, others are nearer to the corner."""
    costs = np.array([[0.0, 1000.0], [1.0, 200.0], [5.0, 100.0], [10.0, 0.0], [1.0, 2000.0]])
    assert knee(costs) == 1


def test_knee_skips_dominated_rows_and_takes_the_first_of_equals() -> None:
    assert knee(np.array([[5.0, 5.0], [1.0, 1.0], [1.0, 1.0]])) == 1


def test_knee_of_one_point_and_of_a_constant_objective() -> None:
    assert knee(np.array([[3.0, 4.0]])) == 0
    assert knee(np.array([[3.0, 1.0, 0.0], [2.0, 1.0, 9.0], [2.5, 1.0, 1.0]])) == 2


def test_knee_of_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no points"):
        knee(np.zeros((0, 2)))
