import numpy as np
import pytest

from netgraft.search import non_dominated
from netgraft.search.additive import AdditiveModel, additive_forecasts, exact_front, fit, spread_order, tau_history
from netgraft.search.space import Space


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("cardinalities", [(3, 4, 2, 5), (1, 6, 1, 4), (7,), (1, 1)])
def test_exact_front_is_the_front_of_all_assignments(cardinalities: tuple[int, ...], objectives: int) -> None:
    """Dynamic programming finds the same cost vectors as enumeration."""
    rng = np.random.default_rng(1)
    model = AdditiveModel(np.ones(objectives), tuple(rng.random((k, objectives)) for k in cardinalities))
    costs = model.predict(Space(cardinalities).everything())
    expected = np.unique(costs[non_dominated(costs)], axis=0)
    found = np.unique(model.predict(exact_front(model)), axis=0)
    assert found == pytest.approx(expected)


def test_equal_costs_stand_on_the_front_once() -> None:
    """Two options of the same costs give one member, not two."""
    effect = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert len(exact_front(AdditiveModel(np.zeros(2), (effect,)))) == 2


def test_a_large_front_is_thinned_but_keeps_its_ends() -> None:
    """Powers of two make every one of 2**12 assignments non-dominated; the kept ones still span the range."""
    effects = tuple(np.array([[0.0, 2.0**s], [2.0**s, 0.0]]) for s in range(12))
    model = AdditiveModel(np.zeros(2), effects)
    costs = model.predict(exact_front(model, limit=100))
    assert len(costs) <= 110
    assert costs[:, 0].min() == 0.0
    assert costs[:, 1].min() == 0.0
    assert np.diff(np.sort(costs[:, 0])).max() < 4096 / 20


def test_fit_recovers_an_additive_function_from_single_swaps(make_problem) -> None:  # type: ignore[no-untyped-def]
    """S*(K-1)+1 evaluations determine the model: it predicts everything else."""
    space = Space((3, 1, 4, 2))
    evaluate = make_problem([3, 1, 4, 2])
    rows = np.concatenate([space.teacher(), space.single_swaps()])
    model = fit(space, rows, evaluate(rows))
    assert model.intercept == pytest.approx(evaluate(space.teacher())[0], abs=1e-4)
    assert all((effect[0] == 0).all() for effect in model.effects)
    assert model.predict(space.everything()) == pytest.approx(evaluate(space.everything()), abs=1e-4)


def test_tau_tells_additive_from_interacting(make_problem) -> None:  # type: ignore[no-untyped-def]
    """Near 1 for a sum, lower with interactions, undefined for a constant."""
    space = Space((4,) * 5)
    rows = space.random(np.random.default_rng(0), 60)
    additive = make_problem([4] * 5)(rows)
    strong = make_problem([4] * 5, strength=3.0)(rows)
    assert tau_history(space, rows, additive)[-1].min() > 0.9
    assert tau_history(space, rows, strong)[-1].max() < 0.7
    assert np.isnan(tau_history(space, rows, np.ones((60, 1)))).all()


def test_tau_leaves_out_rows_that_nothing_predicts() -> None:
    """Of the teacher and its single swaps each has an option that none before it has."""
    space = Space((4, 4, 4))
    rows = np.concatenate([space.teacher(), space.single_swaps()])
    assert np.isnan(tau_history(space, rows, np.random.default_rng(0).random((10, 2)))).all()


def test_forecasts_are_those_of_refitting_before_each_evaluation() -> None:
    """The one factorization agrees with a ridge regression on the earlier rows for each row in turn."""
    space, rng = Space((3, 3)), np.random.default_rng(2)
    rows = space.everything()
    costs = rng.random((9, 1))
    onehot = np.concatenate([np.eye(3)[rows[:, 0]], np.eye(3)[rows[:, 1]]], axis=1)
    gram = onehot @ onehot.T + 1.0
    forecasts, counted = additive_forecasts(space, rows, costs)
    for i in range(1, 9):
        dual = np.linalg.solve(gram[:i, :i] + 0.01 * np.eye(i), costs[:i, 0] - costs[0, 0])
        assert forecasts[i, 0] == pytest.approx(costs[0, 0] + gram[i, :i] @ dual)
    # In lexicographic order (0, 0), (0, 1), ... the first column's options are new in rows 0, 3 and 6.
    assert counted.tolist() == [False, False, False, False, True, True, False, True, True]


def test_a_later_evaluation_does_not_change_what_was_said_before(make_problem) -> None:  # type: ignore[no-untyped-def]
    space = Space((4,) * 5)
    rows = space.random(np.random.default_rng(0), 60)
    costs = make_problem([4] * 5, strength=1.0)(rows)
    whole = tau_history(space, rows, costs)
    assert np.array_equal(tau_history(space, rows[:40], costs[:40]), whole[:40], equal_nan=True)


def test_spread_order_takes_the_largest_gain_first() -> None:
    """Below (4, 4) the points win 4, 3 and 3 alone; after the middle one the ends win 1 each."""
    costs = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    order = spread_order(costs, np.zeros((0, 2)), np.array([4.0, 4.0]), limit=3)
    assert order.tolist() == [1, 0, 2]
