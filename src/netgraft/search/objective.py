"""The one place that calls the objective: checks it, counts it, remembers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from netgraft.errors import SearchError
from netgraft.search.pareto import hypervolume, non_dominated
from netgraft.search.result import EvaluationError
from netgraft.search.space import BoolArray, FloatArray, IntArray, Space, Table, distinct, row_keys

Evaluate = Callable[[IntArray], ArrayLike]
"""(n, S) option indices -> (n, M) costs, minimized."""
Known = Sequence[ArrayLike] | Callable[[IntArray], ArrayLike]
"""An objective that costs nothing: S lists of one cost an option, which add up, or (n, S) -> (n,)."""
OnEvaluation = Callable[[int, IntArray, FloatArray], None]
"""Called with (evaluations so far, assignment (S,), costs (M,)) after each new evaluation."""


class KnownObjective:
    """An objective whose value at any assignment is known exactly and for nothing."""

    def __init__(self, space: Space, index: int, source: Known) -> None:
        self._index = index
        self._call = source if callable(source) else None
        self.additive = self._call is None
        """Whether ``table`` is the objective itself, and not only its single swaps."""
        self.table = _checked("known", space, index, source) if not callable(source) else self._swapped(space)
        """S arrays (K_s,), one cost an option; exact for the teacher and its single swaps."""

    def __call__(self, assignments: IntArray) -> FloatArray:
        """Costs of ``assignments`` (n, S): (n,)."""
        if self._call is None:
            columns = [row[assignments[:, site]] for site, row in enumerate(self.table)]
            return np.asarray(np.sum(columns, axis=0), dtype=np.float64)
        values = np.asarray(self._call(assignments), dtype=np.float64)
        if values.shape != (len(assignments),) or not np.isfinite(values).all():
            raise EvaluationError(f"known[{self._index}] must return {len(assignments)} finite costs, one a row")
        return values

    def _swapped(self, space: Space) -> Table:
        """The table of the single swaps of an objective that is known as a function."""
        values = self(np.concatenate([space.teacher(), space.single_swaps()]))
        # Single swaps come site by site, options 1 to K - 1: see Space.neighbors.
        changes = np.split(values[1:] - values[0], np.cumsum(np.asarray(space.cardinalities) - 1)[:-1])
        share = values[0] / space.sites
        return tuple(share + np.concatenate([[0.0], change]) for change in changes)


def _checked(name: str, space: Space, index: int, source: Sequence[ArrayLike]) -> Table:
    """A table of the caller's."""
    table = tuple(np.asarray(row, dtype=np.float64) for row in source)
    if tuple(row.shape for row in table) != tuple((k,) for k in space.cardinalities):
        raise SearchError(f"{name}[{index}] needs one cost for each option of each of {space.sites} sites")
    if not all(np.isfinite(row).all() for row in table):
        raise SearchError(f"{name}[{index}] holds a value that is not finite")
    return table


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
        limits: Mapping[int, float] | None = None,
        initial: tuple[ArrayLike, ArrayLike] | None = None,
        on_evaluation: OnEvaluation | None = None,
    ) -> None:
        if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or budget < 1:
            raise SearchError(f"budget must be an integer of at least 1, got {budget!r}")
        self.space = space
        self.budget = min(int(budget), space.size)
        """Evaluations that may be made in all."""
        self.known = {index: KnownObjective(space, index, source) for index, source in (known or {}).items()}
        """Objectives that need no evaluation, by index."""
        self.guess = {index: _checked("guess", space, index, table) for index, table in (guess or {}).items()}
        """What is expected of objectives that must be evaluated, by index."""
        self.assignments = np.zeros((0, space.sites), dtype=np.int64)
        """(n, S) evaluated so far."""
        self.costs = np.zeros((0, 0))
        """(n, M) their costs."""
        self._evaluate = evaluate
        self._on_evaluation = on_evaluation
        self._keys: set[bytes] = set()
        self._earlier = _earlier(space, initial)
        self._given = None if reference_point is None else np.asarray(reference_point, dtype=np.float64)
        if self._given is not None and (self._given.ndim != 1 or not np.isfinite(self._given).all()):
            raise SearchError("reference_point must be M finite numbers")
        self._limits = dict(limits or {})
        self._check_limits()

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
        inside = np.ones(len(self.costs), dtype=np.bool_)
        for index, limit in self._limits.items():
            inside &= self.costs[:, index] <= limit
        return inside

    def excess(self, costs: FloatArray) -> FloatArray:
        """How far ``costs`` (n, M) are beyond the limits, summed, in ranges of the evaluations: (n,), 0 within."""
        total = np.zeros(len(costs))
        for index, limit in self._limits.items():
            total += np.maximum(costs[:, index] - limit, 0.0) / (float(np.ptp(self.costs[:, index])) or 1.0)
        return total

    def front(self) -> IntArray:
        """Rows on the front of the feasible evaluations, by their first cost: (k,)."""
        rows = np.flatnonzero(self.feasible())
        rows = rows[non_dominated(self.costs[rows])]
        return rows[np.argsort(self.costs[rows, 0], kind="stable")]

    def volume(self) -> float:
        """Hypervolume of the evaluations so far."""
        return hypervolume(self.costs, self.reference())

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
        for index, limit in self._limits.items():
            # A cost equal to its limit is allowed, but would add no volume below a point at the limit itself.
            point[index] = min(point[index], np.nextafter(limit, np.inf))
        return np.asarray(point)

    def check_feasible(self) -> None:
        """Raise EvaluationError where no evaluation satisfies the limits."""
        if self.feasible().any():
            return
        limits = np.array(list(self._limits.values()))
        costs = self.costs[:, list(self._limits)]
        named = [f"limits[{index}] = {limit:g}" for index, limit in self._limits.items()]
        unmet = [
            f"{name} (least found {least:g})"
            for name, least, limit in zip(named, costs.min(axis=0), limits, strict=True)
            if least > limit
        ]
        if unmet:
            raise EvaluationError(f"no evaluated assignment meets all limits: {', '.join(unmet)}")
        # Each can be met, but not together.
        nearest = costs[np.argmin(self.excess(self.costs))]
        raise EvaluationError(
            f"no evaluated assignment meets {' and '.join(named)} together: the nearest costs "
            + " and ".join(f"{cost:g}" for cost in nearest)
        )

    def _check_objectives(self, objectives: int) -> None:
        """Whether the caller's arguments fit M objectives, once M is known."""
        if self._given is not None and len(self._given) != objectives:
            raise EvaluationError(f"reference_point has {len(self._given)} numbers for {objectives} objectives")
        for index in self._limits:
            if not 0 <= index < objectives:
                raise EvaluationError(f"limits[{index}]: there are only {objectives} objectives")
        for index in self.guess:
            if not 0 <= index < objectives:
                raise EvaluationError(f"guess[{index}]: there are only {objectives} objectives")

    def _check_limits(self) -> None:
        """Limits that no assignment meets, where the objective is a known sum."""
        for index, limit in self._limits.items():
            objective = self.known.get(index)
            if objective is None or not objective.additive:
                continue
            best = sum(float(row.min()) for row in objective.table)
            if best > limit:
                raise SearchError(f"limits[{index}] = {limit:g} cannot be met: the least possible is {best:g}")


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
