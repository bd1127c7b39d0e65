"""The one place that calls the objective: checks it, counts it, remembers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from netgraft.errors import SearchError
from netgraft.search.constraints import Constraint, Constraints
from netgraft.search.known import Known, KnownQuantity
from netgraft.search.pareto import hypervolume, non_dominated
from netgraft.search.result import EvaluationError
from netgraft.search.space import BoolArray, FloatArray, IntArray, Space, distinct, row_keys

Evaluate = Callable[[IntArray], ArrayLike]
"""(n, S) option indices -> (n, M) costs, minimized."""
OnEvaluation = Callable[[int, IntArray, FloatArray], None]
"""Called with (evaluations so far, assignment (S,), costs (M,)) after each new evaluation."""


class Ledger:
    """The evaluations of one search: distinct, within the budget, in order."""

    def __init__(
        self,
        evaluate: Evaluate,
        space: Space,
        budget: int,
        *,
        known: Mapping[int, Known] | None = None,
        guess: Mapping[int, Sequence[ArrayLike]] | None = None,
        reference_point: ArrayLike | None = None,
        limits: Sequence[Constraint] = (),
        initial: tuple[ArrayLike, ArrayLike] | None = None,
        on_evaluation: OnEvaluation | None = None,
    ) -> None:
        if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or budget < 1:
            raise SearchError(f"budget must be an integer of at least 1, got {budget!r}")
        self.space = space
        self.budget = min(int(budget), space.size)
        """Evaluations that may be made in all."""
        self.known = {index: KnownQuantity(space, f"known[{index}]", source) for index, source in (known or {}).items()}
        """Objectives that need no evaluation, by index."""
        self.guess = {
            index: KnownQuantity(space, f"guess[{index}]", table).table for index, table in (guess or {}).items()
        }
        """What is expected of objectives that must be evaluated, by index."""
        self.assignments = np.zeros((0, space.sites), dtype=np.int64)
        """(n, S) evaluated so far."""
        self.costs = np.zeros((0, 0))
        """(n, M) their costs."""
        self.constraints = Constraints(space, limits, self.known)
        """The limits."""
        self._limited = np.zeros((0, len(limits)))
        self._evaluate = evaluate
        self._on_evaluation = on_evaluation
        self._keys: set[bytes] = set()
        self._earlier = _earlier(space, initial)
        self._given = None if reference_point is None else np.asarray(reference_point, dtype=np.float64)
        if self._given is not None and (self._given.ndim != 1 or not np.isfinite(self._given).all()):
            raise SearchError("reference_point must be M finite numbers")

    @property
    def remaining(self) -> int:
        """Evaluations left."""
        return self.budget - len(self.assignments)

    @property
    def design_size(self) -> int:
        """Evaluations of the initial design: about a quarter as many as the additive model has parameters, at
        most half the budget. The default reference point comes from as many."""
        wanted = max(8, self.space.swaps // 4)
        return max(1, min(wanted, self.budget // 2))

    def ask(self, assignments: IntArray) -> None:
        """Evaluate the rows of ``assignments`` (n, S) that are new, in order, until the budget is spent.

        Rows go to the objective one at a time, so that a failure loses no finished evaluation.
        """
        for row in self.unseen(assignments)[: self.remaining]:
            costs = self._costs_of(row)
            if not len(self.assignments):
                self._check_objectives(len(costs))
                self.costs = np.zeros((0, len(costs)))
            self.assignments = np.concatenate([self.assignments, row[None]])
            self.costs = np.concatenate([self.costs, costs[None]])
            self._limited = np.concatenate([self._limited, self.constraints.values(row[None], costs[None])])
            self._keys.add(row.tobytes())
            if self._on_evaluation and row.tobytes() not in self._earlier:
                self._on_evaluation(len(self.assignments), row.copy(), costs.copy())

    def _costs_of(self, row: IntArray) -> FloatArray:
        """(M,) from an earlier run or the objective, with the known ones filled in; checked."""
        earlier = self._earlier.get(row.tobytes())
        if earlier is not None:
            return earlier
        place = f"evaluation {len(self.assignments) + 1} (assignment {row.tolist()})"
        try:
            returned = self._evaluate(row[None].copy())
            costs = np.array(returned, dtype=np.float64)
        except Exception as error:
            # The objective is the caller's code: whatever it raises, the evaluations so far must survive.
            raise EvaluationError(f"{place} failed: {type(error).__name__}: {error}") from error
        if costs.ndim != 2 or costs.shape[0] != 1 or costs.shape[1] < 1:
            raise EvaluationError(f"{place} returned shape {costs.shape} instead of (1, M)")
        if len(self.costs) and costs.shape[1] != self.costs.shape[1]:
            raise EvaluationError(f"{place} returned {costs.shape[1]} costs, earlier ones {self.costs.shape[1]}")
        for index, objective in self.known.items():
            if not 0 <= index < costs.shape[1]:
                raise EvaluationError(f"known[{index}]: the objective returns only {costs.shape[1]} costs")
            costs[0, index] = objective(row[None])[0]
        if not np.isfinite(costs).all():
            raise EvaluationError(f"{place} returned a cost that is not finite: {costs[0].tolist()}")
        return np.asarray(costs[0])

    def unseen(self, assignments: IntArray) -> IntArray:
        """The distinct rows of ``assignments`` (n, S) that were not evaluated yet, in order."""
        rows = distinct(assignments)
        return rows[[key not in self._keys for key in row_keys(rows)]]

    def recall(self, assignments: IntArray) -> FloatArray:
        """Costs of ``assignments`` (n, S) that were all evaluated: (n, M)."""
        places = {key: i for i, key in enumerate(row_keys(self.assignments))}
        return np.asarray(self.costs[[places[key] for key in row_keys(assignments)]])

    def feasible(self) -> BoolArray:
        """Which evaluations satisfy the limits: (n,)."""
        return np.asarray((self._limited <= self.constraints.bounds).all(axis=1))

    def preferred(self, assignments: IntArray) -> IntArray:
        """Those of the rows (n, S) that satisfy the limits on what is known; all, where none does."""
        allowed = self.constraints.allowed(assignments)
        return assignments[allowed] if allowed.any() else assignments

    def violations(self, assignments: IntArray, costs: FloatArray) -> FloatArray:
        """How far assignments (n, S) with costs (n, M) are beyond each limit, in ranges of the evaluations: (n, C)."""
        values = self.constraints.values(assignments, costs)
        return self.constraints.violations(values, np.ptp(self._limited, axis=0))

    def counted(self) -> FloatArray:
        """(n, M) costs of the evaluations; those that exceed a limit are infinite, and so add no hypervolume."""
        return np.where(self.feasible()[:, None], self.costs, np.inf)

    def front(self) -> IntArray:
        """Rows on the front of the feasible evaluations, by their first cost: (k,)."""
        rows = np.flatnonzero(self.feasible())
        rows = rows[non_dominated(self.costs[rows])]
        return rows[np.argsort(self.costs[rows, 0], kind="stable")]

    def volume(self) -> float:
        """Hypervolume of the evaluations so far."""
        return hypervolume(self.counted(), self.reference())

    def reference(self, costs: FloatArray | None = None) -> FloatArray:
        """(M,) the caller's reference point; else, for each objective, the worst of ``costs`` (n, M), by default the
        first ``design_size`` evaluations, plus 10 % of their range (of their size, where all are equal). Limits lower
        it."""
        if self._given is None:
            first = self.costs[: self.design_size] if costs is None else costs
            spread = np.ptp(first, axis=0)
            worst = first.max(axis=0)
            point = worst + 0.1 * np.where(spread > 0, spread, np.maximum(np.abs(worst), 1.0))
        else:
            point = self._given.copy()
        for limit in self.constraints.limits:
            if isinstance(limit.of, int):
                # A cost equal to its limit is allowed, but would add no volume below a point at the limit itself.
                point[limit.of] = min(point[limit.of], np.nextafter(limit.bound, np.inf))
        return np.asarray(point)

    def check_feasible(self) -> None:
        """Raise InfeasibleError where no evaluation satisfies the limits."""
        self.constraints.check_met(self._limited)

    def _check_objectives(self, objectives: int) -> None:
        """Whether the caller's arguments fit M objectives, once M is known."""
        if self._given is not None and len(self._given) != objectives:
            raise EvaluationError(f"reference_point has {len(self._given)} numbers for {objectives} objectives")
        for index in self.guess:
            if not 0 <= index < objectives:
                raise EvaluationError(f"guess[{index}]: there are only {objectives} objectives")
        self.constraints.check_objectives(objectives)


def _earlier(space: Space, initial: tuple[ArrayLike, ArrayLike] | None) -> dict[bytes, FloatArray]:
    """Costs of an earlier run's assignments, by key."""
    if initial is None:
        return {}
    assignments = np.asarray(initial[0], dtype=np.int64).reshape(-1, space.sites)
    costs = np.asarray(initial[1], dtype=np.float64)
    if costs.ndim != 2 or len(costs) != len(assignments) or not np.isfinite(costs).all():
        raise SearchError("initial must be (n, S) assignments and (n, M) finite costs")
    if ((assignments < 0) | (assignments >= np.asarray(space.cardinalities))).any():
        raise SearchError("initial holds an option that the space does not have")
    return dict(zip(row_keys(assignments), costs, strict=True))
