"""Limits: what meets them, how the search keeps to them, and what is said where that cannot be."""

from collections.abc import Callable

import numpy as np
import pytest

from netgraft.errors import SearchError
from netgraft.search import (
    METHODS,
    Constraint,
    EvaluationError,
    InfeasibleError,
    check_sums,
    hypervolume,
    minimize,
    non_dominated,
)
from netgraft.search.additive import AdditiveModel, exact_front
from netgraft.search.space import Space
from netgraft.search.sums import Sums

MakeProblem = Callable[..., Callable[[np.ndarray], np.ndarray]]
Table = list[np.ndarray]


def table(options: list[int], seed: int) -> Table:
    rng = np.random.default_rng([seed, 7])
    return [rng.random(k) for k in options]


def total(costs: Table, rows: np.ndarray) -> np.ndarray:
    return np.sum([row[rows[:, site]] for site, row in enumerate(costs)], axis=0)


def everything(options: list[int]) -> np.ndarray:
    return Space.of(options).everything()


@pytest.mark.parametrize("seed", range(8))
def test_whether_sums_can_be_met_together_is_what_enumeration_says(seed: int) -> None:
    """Bounds near the edge of what is possible, with sites of one to five options."""
    options = [3, 1, 5, 2, 4]
    tables = [table(options, 10 * seed + c) for c in range(3)]
    values = np.stack([total(costs, everything(options)) for costs in tables], axis=1)
    # An assignment that is possible, and one step of each bound below or above it.
    bounds = values[seed * 11 % len(values)] + np.random.default_rng(seed).normal(0, 0.3, 3)
    sums = Sums(tuple(np.stack(rows, axis=1) for rows in zip(*tables, strict=True)), bounds)
    met = values <= bounds
    conflict = sums.conflict()
    assert bool(conflict) == (not met.all(axis=1).any())
    if conflict:
        assert not met[:, conflict].all(axis=1).any()
        for column in conflict:
            others = [c for c in conflict if c != column]
            assert met[:, others].all(axis=1).any()
    for column in range(3):
        others = [c for c in range(3) if c != column]
        possible = values[met[:, others].all(axis=1), column]
        assert sums.least(column, others) == pytest.approx(possible.min() if len(possible) else np.inf)


def test_a_bound_that_is_met_exactly_can_be_met() -> None:
    """Counts as large as a network's, with one unit too few and just enough."""
    counts = [[3_000_000_000, 17], [2_000_000_001, 2_000_000_000]]
    check_sums([2, 2], [Constraint(name="macs", of=counts, limit=2_000_000_017)])
    with pytest.raises(SearchError, match="macs = 2000000000 cannot be met: the least possible is 2000000017"):
        check_sums([2, 2], [Constraint(name="macs", of=counts, limit=2_000_000_000)])


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("limited", [1, 2])
def test_the_exact_front_keeps_to_sums(objectives: int, limited: int) -> None:
    """Dynamic programming finds the front of what enumeration says is allowed."""
    options, rng = [3, 4, 2, 5], np.random.default_rng(1)
    model = AdditiveModel(np.zeros(objectives), tuple(rng.random((k, objectives)) for k in options))
    rows, tables = everything(options), [table(options, c) for c in range(limited)]
    values = np.stack([total(costs, rows) for costs in tables], axis=1)
    bounds = np.quantile(values, 0.3, axis=0)
    allowed = model.predict(rows[(values <= bounds).all(axis=1)])
    sums = Sums(tuple(np.stack(parts, axis=1) for parts in zip(*tables, strict=True)), bounds)
    found = exact_front(model, sums=sums)
    assert (sums(found) <= bounds).all()
    expected = np.unique(allowed[non_dominated(allowed)], axis=0)
    costs = np.unique(model.predict(found), axis=0)
    if limited == 1:
        assert costs == pytest.approx(expected)
    else:
        reference = model.predict(rows).max(axis=0)
        assert hypervolume(costs, reference) >= 0.99 * hypervolume(expected, reference)


@pytest.mark.parametrize(("method", "form"), [("auto", "table"), ("auto", "function"), ("additive", "table")])
def test_a_limit_on_what_is_no_objective_is_kept(method: str, form: str, make_problem: MakeProblem) -> None:
    """5^6 assignments, of which a limit allows a tenth: their true front is found, and counted is only what is allowed.

    After the design, half of the budget, all evaluations are allowed ones.
    """
    options = [5] * 6
    problem, size, rows = make_problem(options), table(options, 0), everything(options)
    sizes, costs = total(size, rows), problem(rows)
    limit, reference = float(np.quantile(sizes, 0.1)), costs.max(axis=0)
    of = size if form == "table" else lambda rows: total(size, rows)
    constraint = Constraint(name="size", of=of, limit=limit)
    result = minimize(
        problem, options, budget=60, method=method, reference_point=reference, constraints=[constraint], tolerance=0.0
    )
    found = total(size, result.assignments) <= limit
    assert found[result.front].all()
    assert set(result.front) == set(np.flatnonzero(found)[non_dominated(result.costs[found])])
    assert result.hypervolume[-1] == pytest.approx(hypervolume(result.costs[found], reference))
    assert result.hypervolume[-1] > 0.97 * hypervolume(costs[sizes <= limit], reference)
    if method == "auto":
        assert found[30:].all()


@pytest.mark.parametrize("method", METHODS)
def test_three_objectives_and_limits_on_two_other_quantities(method: str, make_problem: MakeProblem) -> None:
    """Two tasks and latency, MACs and size limited: the front keeps to all limits with every method."""
    options = [4] * 6
    problem, latency = make_problem(options, objectives=2, strength=0.3), table(options, 1)
    counts = {"macs": table(options, 2), "size": table(options, 3)}
    limits = [Constraint(name=name, of=costs, limit=3.0) for name, costs in counts.items()]

    def evaluate(rows: np.ndarray) -> np.ndarray:
        return np.column_stack([problem(rows), np.full(len(rows), np.nan)])

    result = minimize(
        evaluate,
        options,
        budget=8 if method == "bayes" else 40,
        method=method,
        known={2: latency},
        limits={2: 3.2},
        constraints=limits,
    )
    values = np.stack([total(costs, result.assignments) for costs in counts.values()], axis=1)
    allowed = np.flatnonzero((values <= 3.0).all(axis=1) & (result.costs[:, 2] <= 3.2))
    assert len(result.front) >= 1
    assert set(result.front) == set(allowed[non_dominated(result.costs[allowed])])


def test_nsga2_looks_for_what_meets_a_limit(make_problem: MakeProblem) -> None:
    """More of its evaluations meet a limit than of random ones."""
    options = [5] * 7
    problem, size = make_problem(options), table([5] * 7, 0)
    limit = float(np.quantile(total(size, np.random.default_rng(0).integers(0, 5, (2000, 7))), 0.1))
    met = {
        method: np.mean(
            total(
                size,
                minimize(
                    problem,
                    options,
                    budget=150,
                    method=method,
                    constraints=[Constraint(name="size", of=size, limit=limit)],
                ).assignments,
            )
            <= limit
        )
        for method in ("nsga2", "random")
    }
    assert met["nsga2"] > 2 * met["random"]


def test_a_limit_below_every_sum_is_refused_before_anything_is_evaluated() -> None:
    """The least possible is 3 * 1.5, and with it as the limit the search runs."""
    size = [[2.0, 1.5]] * 3

    def search(limit: float, evaluate: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        constraint = Constraint(name="max_size", of=size, limit=limit)
        return minimize(evaluate, [2] * 3, budget=8, constraints=[constraint]).front

    with pytest.raises(SearchError, match=r"max_size = 4.4 cannot be met: the least possible is 4.5$"):
        search(4.4, lambda _: pytest.fail("evaluated"))
    assert len(search(4.5, lambda rows: np.ones((len(rows), 2)))) == 1


class Product:
    """A known function that tells its least value, where its teacher and single swaps are far above it."""

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray((2.0 - rows).prod(axis=1))

    def least(self) -> float:
        return 1.0


@pytest.mark.parametrize("objective", [False, True])
def test_a_limit_below_the_least_of_a_function_is_refused_before_anything_is_evaluated(objective: bool) -> None:
    def search(limit: float, evaluate: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        constraint = Constraint(name="max_latency", of=1 if objective else Product(), limit=limit)
        known = {1: Product()} if objective else {}
        return minimize(evaluate, [2] * 3, budget=8, known=known, constraints=[constraint]).front

    with pytest.raises(SearchError, match=r"max_latency = 0.9 cannot be met: the least possible is 1$"):
        search(0.9, lambda _: pytest.fail("evaluated"))
    assert len(search(1.0, lambda rows: np.ones((len(rows), 2)))) == 1


def test_limits_that_only_together_cannot_be_met_are_named_with_what_each_could_be() -> None:
    """One site with sums (0, 3), (1, 2), (2, 1), (3, 0): at most 1 and 1 cannot be, 2 and 1 or 1 and 2 can.

    The second is a known objective with a limit; the third, which is met anyway, has no part in it.
    """
    arguments = {
        "options": [4, 2],
        "budget": 4,
        "known": {1: [[3.0, 2.0, 1.0, 0.0], [0.0, 0.0]]},
        "limits": {1: 1.0},
        "constraints": [
            Constraint(name="macs", of=[[0.0, 1.0, 2.0, 3.0], [0.0, 5.0]], limit=1.0),
            Constraint(name="params", of=[[1.0] * 4, [1.0] * 2], limit=2.0),
        ],
    }
    with pytest.raises(SearchError) as caught:
        minimize(lambda rows: np.ones((len(rows), 2)), **arguments)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "limits[1] = 1 and macs = 1 cannot be met together: they can with limits[1] = 2 or with macs = 2"
    )


def test_rounding_is_no_violation() -> None:
    """0.1 + 0.2 is more than 0.3 in floating point."""
    result = minimize(
        lambda rows: np.ones((len(rows), 1)),
        [1, 1],
        budget=1,
        constraints=[Constraint(name="size", of=[[0.1], [0.2]], limit=0.3)],
    )
    assert result.front.tolist() == [0]


def test_a_limit_on_a_function_that_nothing_meets_says_the_nearest_and_keeps_the_evaluations() -> None:
    """The least of the function, 2, is found among all 16; what is shown is in the words of who set the limit."""
    with pytest.raises(InfeasibleError, match=r"none of 16 .* meets min_db = 39 \(nearest found 38\)$") as caught:
        minimize(
            lambda rows: rows.astype(float),
            [4, 4],
            budget=16,
            constraints=[
                Constraint(
                    name="min_db", of=lambda rows: 2.0 + rows.sum(1), limit=1.0, show=lambda loss: f"{40 - loss:g}"
                )
            ],
        )
    assert caught.value.partial is not None
    assert len(caught.value.partial.costs) == 16
    assert caught.value.partial.hypervolume.tolist() == [0.0] * 16


def test_the_nearest_is_told_where_the_other_limits_are_met() -> None:
    """Costs i and 3 - i: a first cost of at most -1 is not met; with a second one of at most 1 it is 2 at least."""
    with pytest.raises(InfeasibleError, match=r"limits\[0\] = -1 \(nearest found 2\)$"):
        minimize(lambda rows: np.column_stack([rows, 3.0 - rows]), [4], budget=4, limits={0: -1.0, 1: 1.0})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"of": [[1.0, 2.0]]}, "size needs one cost for each option"),
        ({"of": [[1.0, np.nan]] * 2}, "size holds a value that is not finite"),
        ({"of": 2}, "size: there are only 2 objectives"),
        ({"of": lambda _rows: np.zeros(1)}, "size must return"),
        ({"of": lambda _rows: 1 / 0}, "size failed: ZeroDivisionError"),
        ({"limit": np.inf}, "size must be a finite number"),
    ],
)
def test_wrong_constraints_are_refused(changed: dict[str, object], message: str) -> None:
    constraint = Constraint(**{"name": "size", "of": [[0.0, 1.0]] * 2, "limit": 1.0} | changed)  # type: ignore[arg-type]
    with pytest.raises(SearchError, match=message):
        minimize(lambda rows: np.ones((len(rows), 2)), [2, 2], budget=3, constraints=[constraint])


def test_a_failure_keeps_what_was_done_within_limits() -> None:
    calls = 0

    def evaluate(rows: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return np.full((1, 2), np.nan if calls > 3 else 1.0)

    size = Constraint(name="size", of=[[0.0, 1.0]] * 4, limit=1.0)
    with pytest.raises(EvaluationError, match="evaluation 4") as caught:
        minimize(evaluate, [2] * 4, budget=10, constraints=[size])
    assert caught.value.partial is not None
    assert len(caught.value.partial.costs) == 3


def test_a_known_function_that_fails_later_keeps_what_was_done(make_problem: MakeProblem) -> None:
    """Asked of a pool of assignments, it fails: the design is kept."""

    def size(rows: np.ndarray) -> np.ndarray:
        if len(rows) > 200:
            raise RuntimeError("too many")
        return rows.sum(axis=1).astype(float)

    with pytest.raises(EvaluationError, match="size failed: RuntimeError: too many") as caught:
        minimize(make_problem([3] * 5), [3] * 5, budget=20, constraints=[Constraint(name="size", of=size, limit=5.0)])
    assert caught.value.partial is not None
    assert len(caught.value.partial.costs) == 8


def test_the_design_of_auto_keeps_to_known_limits(make_problem: MakeProblem) -> None:
    """About every other Latin row is forbidden: none of them is evaluated, the teacher's aside."""
    options = [4] * 8
    sizes = table(options, 0)
    middle = float(np.median(total(sizes, Space.of(options).random(np.random.default_rng(0), 1000))))
    size = Constraint(name="size", of=sizes, limit=middle)
    found = minimize(make_problem(options), options, budget=16, constraints=[size])
    assert (total(sizes, found.assignments[1:]) <= size.limit).all()
