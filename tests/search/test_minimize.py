from collections.abc import Callable

import numpy as np
import pytest

from netgraft.errors import ConfigError, SearchError
from netgraft.search import (
    METHODS,
    EvaluationError,
    InfeasibleError,
    hypervolume,
    minimize,
    non_dominated,
)

OPTIONS = [4] * 5
QUICK = ("auto", "additive", "nsga2", "random")
MakeProblem = Callable[..., Callable[[np.ndarray], np.ndarray]]


def budget_of(method: str) -> int:
    """BoTorch takes half a second a proposal: enough to leave the design (half of it), not more."""
    return 8 if method == "bayes" else 24


@pytest.mark.parametrize("method", METHODS)
def test_budget_distinctness_and_the_teacher_first(method: str, make_problem: MakeProblem) -> None:
    """Every method spends its budget on distinct assignments within the options, the teacher first."""
    budget = budget_of(method)
    calls = []
    problem = make_problem(OPTIONS, strength=0.5)

    def evaluate(rows: np.ndarray) -> np.ndarray:
        calls.extend(rows.tolist())
        return problem(rows)

    result = minimize(evaluate, OPTIONS, budget=budget, method=method, seed=1, tolerance=0.0)
    assert len(calls) == budget == len(result.assignments)
    assert calls == result.assignments.tolist()
    assert len({tuple(row) for row in calls}) == budget
    assert calls[0] == [0] * 5
    assert result.assignments.min() >= 0
    assert result.assignments.max() <= 3
    assert not result.stopped_early
    assert np.array_equal(result.costs, problem(result.assignments))
    assert set(result.front) == set(np.flatnonzero(non_dominated(result.costs)))
    assert (np.diff(result.costs[result.front, 0]) > 0).all()
    assert result.hypervolume[-1] == pytest.approx(hypervolume(result.costs, result.reference_point))
    assert result.hypervolume[-1] > 0


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_search(method: str, make_problem: MakeProblem) -> None:
    """Twice the same rows in the same order; another seed gives others from the start."""
    problem, budget = make_problem(OPTIONS, strength=0.5), budget_of(method)
    first, again, other = (
        minimize(problem, OPTIONS, budget=n, method=method, seed=seed, tolerance=0.0).assignments
        for seed, n in ((3, budget), (3, budget), (4, 4))
    )
    assert np.array_equal(first, again)
    assert method == "additive" or not np.array_equal(first[:4], other)


@pytest.mark.parametrize("method", QUICK)
def test_a_killed_run_continues_as_if_it_had_not_been(method: str, make_problem: MakeProblem) -> None:
    """It fails at evaluation 15; with the partial result as ``initial`` only the rest is evaluated."""
    problem = make_problem(OPTIONS, strength=0.5)
    calls = 0

    def failing(rows: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 15:
            raise RuntimeError("power cut")
        return problem(rows)

    whole = minimize(problem, OPTIONS, budget=24, method=method, tolerance=0.0)
    with pytest.raises(EvaluationError, match=r"evaluation 15 .*RuntimeError: power cut") as caught:
        minimize(failing, OPTIONS, budget=24, method=method, tolerance=0.0)
    partial = caught.value.partial
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert partial is not None
    assert partial.stop_reason == "error"
    assert np.array_equal(partial.assignments, whole.assignments[:14])

    seen: list[int] = []
    resumed = minimize(
        failing,
        OPTIONS,
        budget=24,
        method=method,
        tolerance=0.0,
        initial=(partial.assignments, partial.costs),
        on_evaluation=lambda done, _row, _costs: seen.append(done),
    )
    assert np.array_equal(resumed.assignments, whole.assignments)
    assert np.array_equal(resumed.costs, whole.costs)
    assert calls == 15 + 10
    assert seen == list(range(15, 25))


@pytest.mark.parametrize(("strength", "margin"), [(0.0, 0.1), (1.0, 0.05)])
def test_auto_beats_random_clearly(strength: float, margin: float, make_problem: MakeProblem) -> None:
    """On 5^7 assignments with 35 evaluations, with and without interactions, as a share of a fixed volume."""
    options, reference = [5] * 7, np.array([20.0, 20.0])
    for seed in range(2):
        problem = make_problem(options, strength=strength, seed=seed)
        auto, random = (
            minimize(problem, options, budget=35, method=method, reference_point=reference, seed=seed)
            for method in ("auto", "random")
        )
        assert auto.hypervolume[-1] > (1 + margin) * random.hypervolume[-1]


@pytest.mark.parametrize("method", ["auto", "additive"])
def test_an_additive_problem_is_solved(method: str, make_problem: MakeProblem) -> None:
    """60 evaluations of 5^7 assignments reach 99 % of the hypervolume of their true front."""
    options = [5] * 7
    problem = make_problem(options)
    everything = np.stack(np.unravel_index(np.arange(5**7), options), axis=1)
    costs = problem(everything)
    reference = costs.max(axis=0)
    result = minimize(problem, options, budget=60, method=method, reference_point=reference, tolerance=0.0)
    assert result.hypervolume[-1] > 0.99 * hypervolume(costs, reference)
    assert result.regime == "additive"
    assert result.additive_tau.min() >= 0.9


def test_strong_interactions_are_named(make_problem: MakeProblem) -> None:
    result = minimize(make_problem(OPTIONS, strength=5.0), OPTIONS, budget=60, method="random")
    assert result.regime == "strong"


@pytest.mark.parametrize("method", METHODS)
def test_three_objectives_work(method: str, make_problem: MakeProblem) -> None:
    budget = budget_of(method)
    result = minimize(make_problem(OPTIONS, objectives=3, strength=0.3), OPTIONS, budget=budget, method=method)
    assert result.costs.shape == (budget, 3)
    assert result.hypervolume[-1] > 0
    assert set(result.front) == set(np.flatnonzero(non_dominated(result.costs)))


def test_a_budget_beyond_the_space_enumerates_it(make_problem: MakeProblem) -> None:
    """3 * 1 * 2 assignments, and it stops there."""
    result = minimize(make_problem([3, 1, 2]), [3, 1, 2], budget=100)
    assert sorted(map(tuple, result.assignments)) == [(i, 0, j) for i in range(3) for j in range(2)]
    assert result.stop_reason == "space"
    assert result.stopped_early


@pytest.mark.parametrize("method", METHODS)
def test_a_nearly_exhausted_space_with_fixed_sites(method: str, make_problem: MakeProblem) -> None:
    """15 of 16 assignments, two sites with nothing to choose: still distinct, still the whole budget."""
    options = [4, 1, 4, 1]
    result = minimize(make_problem(options), options, budget=15, method=method, tolerance=0.0)
    assert len({tuple(row) for row in result.assignments}) == 15


@pytest.mark.parametrize("method", METHODS)
def test_constant_costs_are_searched_without_complaint(method: str) -> None:
    """Nothing to gain, nothing to learn: finite numbers, and the teacher on the front."""
    result = minimize(
        lambda rows: np.ones((len(rows), 2)), OPTIONS, budget=budget_of(method), method=method, tolerance=0.0
    )
    assert 0 in result.front
    assert np.isfinite(result.hypervolume).all()
    assert result.regime == "unknown"


def test_auto_stops_when_nothing_is_to_be_gained(make_problem: MakeProblem) -> None:
    """An additive problem of 6^4 assignments is solved, nearly exactly, long before 400 evaluations."""
    problem = make_problem([6] * 4)
    result = minimize(problem, [6] * 4, budget=400)
    assert result.stop_reason == "tolerance"
    assert len(result.costs) < 200
    costs = problem(np.stack(np.unravel_index(np.arange(6**4), [6] * 4), axis=1))
    assert result.hypervolume[-1] == pytest.approx(hypervolume(costs, result.reference_point), rel=1e-3)


@pytest.mark.parametrize("form", ["table", "function"])
def test_a_known_objective_needs_no_evaluation(form: str, make_problem: MakeProblem) -> None:
    """The objective leaves that column empty; the costs hold its exact values, and it helps."""
    options, rng = [5] * 7, np.random.default_rng(5)
    problem = make_problem(options, strength=0.5)
    table = [rng.random(5) for _ in options]

    def latency(rows: np.ndarray) -> np.ndarray:
        return np.sum([row[rows[:, site]] for site, row in enumerate(table)], axis=0)

    def evaluate(rows: np.ndarray) -> np.ndarray:
        return np.column_stack([problem(rows)[:, 0], np.full(len(rows), np.nan)])

    known = {1: table if form == "table" else latency}
    result = minimize(evaluate, options, budget=40, known=known, reference_point=[15.0, 5.0])
    assert result.costs[:, 1] == pytest.approx(latency(result.assignments))

    blind = minimize(
        lambda rows: np.column_stack([problem(rows)[:, 0], latency(rows)]),
        options,
        budget=40,
        method="random",
        reference_point=[15.0, 5.0],
    )
    assert result.hypervolume[-1] > 1.1 * blind.hypervolume[-1]


def test_noisy_costs_are_searched(make_problem: MakeProblem) -> None:
    """With noise of a tenth of the costs' spread the front found still truly beats random search's."""
    options, reference = [5] * 7, np.array([20.0, 20.0])
    problem, rng = make_problem(options), np.random.default_rng(0)

    def noisy(rows: np.ndarray) -> np.ndarray:
        return problem(rows) + 0.3 * rng.standard_normal((len(rows), 2))

    auto, random = (
        minimize(noisy, options, budget=35, method=method, reference_point=reference) for method in ("auto", "random")
    )
    truly = [hypervolume(problem(result.assignments), reference) for result in (auto, random)]
    assert truly[0] > 1.1 * truly[1]


def test_limits_steer_the_search(make_problem: MakeProblem) -> None:
    """Most evaluations after the design meet a limit that one random assignment in ten meets."""
    options = [5] * 7
    problem = make_problem(options)
    random = problem(np.random.default_rng(0).integers(0, 5, (2000, 7)))
    limit = float(np.quantile(random[:, 1], 0.1))
    result = minimize(problem, options, budget=36, limits={1: limit}, tolerance=0.0)
    assert (result.costs[result.front, 1] <= limit).all()
    assert result.reference_point[1] == pytest.approx(limit)
    assert np.mean(result.costs[18:, 1] <= limit) > 0.5


def test_limits_that_cannot_be_met_say_what_could(make_problem: MakeProblem) -> None:
    """Known sums are refused before anything is evaluated, others afterwards, with the evaluations kept."""
    table = [[2.0, 1.5]] * 3
    with pytest.raises(SearchError, match=r"limits\[0\] = 4 cannot be met: the least possible is 4.5"):
        minimize(make_problem([2] * 3), [2] * 3, budget=4, known={0: table}, limits={0: 4.0})
    with pytest.raises(InfeasibleError, match=r"none of 12 .* limits\[1\] = -1 \(nearest found") as caught:
        minimize(make_problem(OPTIONS), OPTIONS, budget=12, limits={1: -1.0})
    assert caught.value.partial is not None
    assert len(caught.value.partial.costs) == 12
    assert len(caught.value.partial.front) == 0


def test_limits_that_cannot_be_met_together_say_what_comes_nearest() -> None:
    """Costs (i, 3 - i) for one site: i = 1 exceeds only the two limits' sum, by 0.5 and 0.5."""
    with pytest.raises(InfeasibleError, match=r"limits\[0\] = 0.5 and limits\[1\] = 1.5 together: .* has 1 and 2"):
        minimize(lambda rows: np.column_stack([rows, 3.0 - rows]), [4], budget=4, limits={0: 0.5, 1: 1.5})


def test_three_objectives_with_two_limits(make_problem: MakeProblem) -> None:
    """What a run asks: loss, latency and size, the last two known and limited; the front keeps to both."""
    options = [4] * 6
    problem = make_problem(options, objectives=3, strength=0.3)
    tables = [[np.random.default_rng([m, site]).random(4) for site in range(6)] for m in (1, 2)]

    def evaluate(rows: np.ndarray) -> np.ndarray:
        return np.column_stack([problem(rows)[:, 0], np.full((len(rows), 2), np.nan)])

    result = minimize(evaluate, options, budget=40, known={1: tables[0], 2: tables[1]}, limits={1: 2.8, 2: 2.8})
    assert len(result.front) >= 3
    assert (result.costs[result.front, 1:] <= 2.8).all()
    allowed = np.flatnonzero((result.costs[:, 1:] <= 2.8).all(axis=1))
    assert set(result.front) == set(allowed[non_dominated(result.costs[allowed])])


@pytest.mark.parametrize("method", QUICK)
@pytest.mark.parametrize("budget", [1, 2, 5])
def test_a_budget_below_the_design_is_spent_on_part_of_it(method: str, budget: int, make_problem: MakeProblem) -> None:
    """Exactly that many evaluations, the teacher first, and a front among them."""
    result = minimize(make_problem(OPTIONS), OPTIONS, budget=budget, method=method)
    assert len(result.costs) == budget
    assert not result.assignments[0].any()
    assert len(result.front) >= 1
    assert result.regime == "unknown"


def test_sites_without_a_choice_leave_the_teacher() -> None:
    """A space of one assignment: it is evaluated once."""
    result = minimize(lambda rows: np.ones((len(rows), 2)), [1, 1, 1], budget=10)
    assert result.assignments.tolist() == [[0, 0, 0]]
    assert result.stop_reason == "space"


@pytest.mark.parametrize("method", QUICK)
def test_one_constant_objective_does_not_hide_the_other(method: str, make_problem: MakeProblem) -> None:
    """With the second cost constant the front is one assignment: the least of the first."""
    problem = make_problem(OPTIONS)
    result = minimize(
        lambda rows: np.column_stack([problem(rows)[:, 0], np.full(len(rows), 3.0)]), OPTIONS, budget=24, method=method
    )
    assert result.costs[result.front, 0].tolist() == [result.costs[:, 0].min()]


def test_forecasts_are_told_as_the_search_goes(make_problem: MakeProblem) -> None:
    """One row of taus an evaluation; the last is the result's, and what an interrupted search had said stays."""
    problem = make_problem(OPTIONS, strength=0.5)
    whole = minimize(problem, OPTIONS, budget=30, method="random")
    part = minimize(problem, OPTIONS, budget=30, method="random", initial=(whole.assignments[:20], whole.costs[:20]))
    assert whole.tau_history.shape == (30, 2)
    assert np.array_equal(whole.tau_history[-1], whole.additive_tau, equal_nan=True)
    assert np.array_equal(part.tau_history, whole.tau_history, equal_nan=True)


def test_the_default_reference_point_is_the_worst_of_the_design_plus_a_tenth(
    make_problem: MakeProblem,
) -> None:
    """5 sites with 4 options have 15 swaps, a quarter of which is less than the least design, 8."""
    result = minimize(make_problem(OPTIONS), OPTIONS, budget=20, method="random")
    first = result.costs[:8]
    assert result.reference_point == pytest.approx(first.max(axis=0) + 0.1 * np.ptp(first, axis=0))


def returning(value: object) -> Callable[[np.ndarray], object]:
    """An objective that works twice, then returns ``value``."""
    calls = 0

    def evaluate(_rows: np.ndarray) -> object:
        nonlocal calls
        calls += 1
        return value if calls > 2 else [[1.0, 2.0]]

    return evaluate


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1.0, np.nan]], "evaluation 3 .*not finite"),
        ([[np.inf, 1.0]], "evaluation 3 .*not finite"),
        ([1.0, 2.0], r"shape \(2,\) instead of \(1, M\)"),
        ([[1.0, 2.0], [3.0, 4.0]], r"shape \(2, 2\)"),
        ([[1.0, 2.0, 3.0]], "3 costs, earlier ones 2"),
        ("nonsense", "evaluation 3 .*failed: ValueError"),
    ],
)
def test_nonsense_from_the_objective_keeps_what_was_done(value: object, message: str) -> None:
    """One line that says which evaluation; the two before it are in ``partial``."""
    with pytest.raises(EvaluationError, match=message) as caught:
        minimize(returning(value), OPTIONS, budget=10)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert caught.value.partial is not None
    assert caught.value.partial.costs.tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_a_first_evaluation_that_fails_has_no_partial_result() -> None:
    with pytest.raises(EvaluationError) as caught:
        minimize(lambda _: 1 / 0, OPTIONS, budget=10)
    assert caught.value.partial is None


@pytest.mark.parametrize("method", ["additive", "nsga2", "random"])
def test_nonsense_keeps_what_was_done_with_every_method(method: str) -> None:
    with pytest.raises(EvaluationError, match=r"evaluation 3 .*not finite") as caught:
        minimize(returning([[np.nan, 1.0]]), OPTIONS, budget=10, method=method)  # type: ignore[arg-type]
    assert caught.value.partial is not None
    assert len(caught.value.partial.costs) == 2
    assert caught.value.partial.stop_reason == "error"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budget": 0}, "budget must be"),
        ({"budget": 2.5}, "budget must be"),
        ({"options": []}, "options is empty"),
        ({"options": [3, 0]}, "site 1 has 0 options"),
        ({"options": [2.0, 3.0]}, "must be integers"),
        ({"reference_point": [1.0, np.nan]}, "reference_point must be"),
        ({"reference_point": [1.0]}, "1 numbers for 2 objectives"),
        ({"known": {1: [[1.0, 2.0]]}}, r"known\[1\] needs one cost for each option"),
        ({"known": {5: lambda rows: np.zeros(len(rows))}}, r"known\[5\]: the objective returns only 2"),
        ({"limits": {2: 1.0}}, "only 2 objectives"),
        ({"limits": {1: np.nan}}, r"limits\[1\] must be a finite number"),
        ({"initial": ([[0, 0, 9, 0, 0]], [[1.0, 1.0]])}, "option that the space does not have"),
        ({"initial": ([[0, 0, 0, 0, 0]], [[np.nan, 1.0]])}, "finite costs"),
    ],
)
def test_wrong_arguments_are_refused(changed: dict[str, object], message: str, make_problem: MakeProblem) -> None:
    arguments: dict[str, object] = {"options": OPTIONS, "budget": 10} | changed
    with pytest.raises(SearchError, match=message):
        minimize(make_problem(OPTIONS), **arguments)  # type: ignore[arg-type]


def test_an_unknown_method_is_guessed(make_problem: MakeProblem) -> None:
    with pytest.raises(ConfigError, match="did you mean 'nsga2'"):
        minimize(make_problem(OPTIONS), OPTIONS, budget=10, method="nsga")


def test_a_guess_saves_evaluations(make_problem: MakeProblem) -> None:
    """With the additive part as a guess 12 evaluations beat 24 without; a wrong one does not mislead."""
    options = [5] * 9
    problem = make_problem(options, strength=0.3, seed=1)
    swaps = [np.array([[k if s == site else 0 for s in range(9)] for k in range(5)]) for site in range(9)]
    right = [problem(rows)[:, 0] for rows in swaps]
    wrong = [-costs for costs in right]
    known = {1: lambda rows: problem(rows)[:, 1]}

    def volume(guess: object, budget: int) -> float:
        given = {} if guess is None else {0: guess}
        found = minimize(
            problem, options, budget=budget, reference_point=np.array([20.0, 20.0]), known=known, guess=given
        )
        return float(found.hypervolume[-1])

    assert volume(right, 12) > volume(None, 24)
    assert volume(wrong, 60) > 0.9 * volume(None, 60)


@pytest.mark.parametrize(
    ("guess", "complaint"),
    [
        ({0: [[0.0, 1.0]]}, r"guess\[0\] needs one cost"),
        ({0: [[0.0, float("nan")], [0.0, 1.0]]}, r"guess\[0\] holds a value that is not finite"),
        ({7: [[0.0, 1.0], [0.0, 1.0]]}, r"guess\[7\]: there are only 2 objectives"),
    ],
)
def test_a_guess_that_does_not_fit(guess: object, complaint: str, make_problem: MakeProblem) -> None:
    with pytest.raises((SearchError, EvaluationError), match=complaint):
        minimize(make_problem([2, 2]), [2, 2], budget=3, guess=guess)


def test_a_guess_of_nothing_is_none(make_problem: MakeProblem) -> None:
    """All options equally good by the guess, budgets down to one evaluation."""
    for budget in (1, 2, 10):
        found = minimize(make_problem([3] * 4), [3] * 4, budget=budget, guess={0: [[0.0] * 3] * 4, 1: [[0.0] * 3] * 4})
        assert len(found.costs) == budget
