"""The additive model of the objectives, its exact front, and the search that trusts it.

If every objective is a sum over sites, its front follows from S*(K-1)+1 evaluations by dynamic programming:
the front of the first s + 1 sites lies within (front of the first s sites) x (options of the next site).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.linalg import block_diag, solve_triangular
from scipy.stats import kendalltau

from netgraft.search.improvement import boxes_below, expected_improvement
from netgraft.search.objective import Ledger
from netgraft.search.pareto import non_dominated
from netgraft.search.space import BoolArray, FloatArray, IntArray, Space
from netgraft.search.sums import Sums

SWAP_SHARE = 0.75
"""Single swaps are evaluated when they take at most this share of the budget; else a smaller design is."""
DESIGN_SHARE = 0.6
"""Share of the budget that this smaller design takes."""
LEAST_FORECASTS = 8
"""Forecasts from which a rank correlation is told."""


@dataclass(frozen=True, slots=True)
class AdditiveModel:
    """costs = intercept + sum over sites of an effect of the option there."""

    intercept: FloatArray
    """(M,): costs of the teacher."""
    effects: tuple[FloatArray, ...]
    """S arrays (K_s, M): change of the costs against option 0, whose row is 0."""

    def predict(self, assignments: IntArray) -> FloatArray:
        """Costs of ``assignments`` (n, S): (n, M)."""
        parts = (effect[assignments[:, site]] for site, effect in enumerate(self.effects))
        return self.intercept + sum(parts, np.zeros((len(assignments), len(self.intercept))))


def fit(space: Space, assignments: IntArray, costs: FloatArray, ridge: float = 1e-6) -> AdditiveModel:
    """Least squares for ``assignments`` (n, S), ``costs`` (n, M); ``ridge`` settles what the rows leave open.

    ridge is relative to one row's weight: small enough to reproduce a determined model to about six digits.
    """
    features, offsets = _features(space, assignments)
    center = costs.mean(axis=0)
    gram = features @ features.T + 1.0
    gram[np.diag_indices_from(gram)] += ridge
    dual = np.linalg.solve(gram, costs - center)
    weights = features.T @ dual
    effects = tuple(weights[low:high] - weights[low] for low, high in pairwise(offsets))
    intercept = center + dual.sum(axis=0) + weights[offsets[:-1]].sum(axis=0)
    return AdditiveModel(np.asarray(intercept), effects)


def _features(space: Space, assignments: IntArray) -> tuple[FloatArray, IntArray]:
    """One-hot rows (n, sum of K) and where each site's columns begin (S + 1,)."""
    offsets = np.concatenate([[0], np.cumsum(space.cardinalities)]).astype(np.int64)
    features = np.zeros((len(assignments), offsets[-1]))
    np.put_along_axis(features, assignments + offsets[:-1], 1.0, axis=1)
    return features, offsets


def additive_forecasts(
    space: Space, assignments: IntArray, costs: FloatArray, ridge: float = 0.01
) -> tuple[FloatArray, BoolArray]:
    """What the additive model said of each row before it was evaluated: (n, M), and which rows count: (n,).

    Row i is predicted by ridge regression on the rows before it. All of these regressions come from one Cholesky
    factor L of the covariance of the rows: row i was predicted L[i, i] * (inverse(L) @ costs)[i] too low. A row
    with an option that no earlier row has cannot be predicted and does not count.
    """
    features, _ = _features(space, assignments)
    gram = features @ features.T + 1.0
    gram[np.diag_indices_from(gram)] += ridge
    factor = np.linalg.cholesky(gram)
    # Relative to the first row, the teacher, which every later prediction may know.
    surprise = np.diag(factor)[:, None] * solve_triangular(factor, costs - costs[0], lower=True)
    seen = np.cumsum(features, axis=0) - features > 0
    foreseen: BoolArray = ~np.any((features > 0) & ~seen, axis=1)
    return costs - surprise, foreseen


def tau_history(space: Space, assignments: IntArray, costs: FloatArray) -> FloatArray:
    """Kendall's tau-b between additive forecasts and the truth after each evaluation: (n, M).

    After n evaluations it is that of the later half of them, of which the model knew the most. NaN where an
    objective is constant there or fewer than ``LEAST_FORECASTS`` rows count.
    """
    history = np.full(costs.shape, np.nan)
    forecasts, counted = additive_forecasts(space, assignments, costs)
    for n in range(len(costs)):
        rows = n // 2 + np.flatnonzero(counted[n // 2 : n + 1])
        if len(rows) < LEAST_FORECASTS:
            continue
        for m in np.flatnonzero(np.ptp(costs[rows], axis=0) > 0):
            history[n, m] = kendalltau(forecasts[rows, m], costs[rows, m]).statistic
    return history


def regime_of(tau: FloatArray) -> str:
    """The name of the strongest interaction among the objectives, from ``tau`` (M,), where it is defined."""
    defined = tau[np.isfinite(tau)]
    if not len(defined):
        return "unknown"
    least = float(defined.min())
    return "additive" if least >= 0.9 else "mild" if least >= 0.7 else "strong"


def guessed(ledger: Ledger) -> AdditiveModel | None:
    """What the caller expects, known objectives exact; None where that leaves an objective open.

    Called once the teacher has been evaluated, whose costs it starts from.
    """
    objectives = ledger.costs.shape[1]
    if set(ledger.guess) | set(ledger.known) != set(range(objectives)):
        return None
    effects = tuple(np.zeros((k, objectives)) for k in ledger.space.cardinalities)
    for index, table in ledger.guess.items():
        for effect, row in zip(effects, table, strict=True):
            effect[:, index] = row - row[0]
    return with_known(AdditiveModel(ledger.costs[0], effects), ledger)


def with_known(model: AdditiveModel, ledger: Ledger) -> AdditiveModel:
    """``model`` with the columns of the known objectives replaced by their tables."""
    intercept = model.intercept.copy()
    effects = [effect.copy() for effect in model.effects]
    for index, objective in ledger.known.items():
        intercept[index] = sum(float(row[0]) for row in objective.table)
        for effect, row in zip(effects, objective.table, strict=True):
            effect[:, index] = row - row[0]
    return AdditiveModel(intercept, tuple(effects))


def exact_front(model: AdditiveModel, limit: int = 2000, sums: Sums | None = None) -> IntArray:
    """Assignments of the additive model's Pareto front: (k, S), one a distinct cost vector, by first cost.

    sums: limits that are kept, too; only where they cannot all be met are they ignored.

    Exact while no partial front exceeds ``limit`` points. A larger one is thinned: its range is cut into
    equal buckets along all objectives but the last and one point of each is kept, which bounds the time. With several
    sums it is nearly exact: of partial assignments with equal costs one that takes little of all sums is kept.
    """
    objectives = len(model.intercept)
    sums = sums or Sums(tuple(np.zeros((len(effect), 0)) for effect in model.effects), np.zeros(0))
    left = sums.left()
    # What a partial assignment takes of the sums counts like one more objective.
    shares = 1.0 / np.maximum(sums.bounds - left[0], 1e-12)
    weigh = block_diag(np.eye(objectives), np.tile(shares[:, None], min(1, len(shares))))
    steps = [np.concatenate(pair, axis=1) for pair in zip(model.effects, sums.tables, strict=True)]
    costs = np.zeros((1, objectives + len(sums.bounds)))
    chosen = np.zeros((1, 0), dtype=np.int64)
    for step, least in zip(steps, left[1:], strict=True):
        options = len(step)
        costs = (costs[:, None, :] + step[None, :, :]).reshape(-1, costs.shape[1])
        parent, option = np.divmod(np.arange(len(costs)), options)
        keep = np.flatnonzero((costs[:, objectives:] + least <= sums.bounds).all(axis=1))
        keep = keep if len(keep) else np.arange(len(costs))
        weighed = costs @ weigh
        keep = keep[non_dominated(weighed[keep])]
        keep = keep[np.unique(weighed[keep], axis=0, return_index=True)[1]]
        keep = keep[_thin(weighed[keep], limit)]
        costs = costs[keep]
        chosen = np.column_stack([chosen[parent[keep]], option[keep]])
    return chosen[non_dominated(costs[:, :objectives])].astype(np.int64)


def _thin(front: FloatArray, limit: int) -> IntArray:
    """Indices of about ``limit`` rows of ``front`` (n, M) that cover it: one a bucket, and the ends."""
    everyone = np.arange(len(front))
    if len(front) <= limit:
        return everyone
    low, spread = front.min(axis=0), np.ptp(front, axis=0)
    scaled = (front - low) / np.where(spread > 0, spread, 1.0)
    buckets = max(2, int(limit ** (1 / (front.shape[1] - 1))))
    cells = np.floor(scaled[:, :-1] * buckets).astype(np.int64)
    order = np.lexsort((scaled.sum(axis=1), *cells.T))
    _, first = np.unique(cells[order], axis=0, return_index=True)
    ends = np.concatenate([front.argmin(axis=0), front.argmax(axis=0)])
    return np.unique(np.concatenate([order[first], ends]))


def spread_order(costs: FloatArray, done: FloatArray, reference: FloatArray, limit: int) -> IntArray:
    """Order in which rows of ``costs`` (n, M) add most hypervolume to ``done`` (d, M): at most ``limit``."""
    order: list[int] = []
    left = np.ones(len(costs), dtype=np.bool_)
    known = done
    for _ in range(min(limit, len(costs))):
        gain = expected_improvement(costs, np.zeros_like(costs), boxes_below(known, reference))
        best = int(np.argmax(np.where(left, gain, -1.0)))
        order.append(best)
        left[best] = False
        known = np.concatenate([known, costs[best : best + 1]])
    return np.asarray(order, dtype=np.int64)


def search_additive(ledger: Ledger, rng: np.random.Generator, _tolerance: float) -> bool:
    """Single swaps (or, for a small budget, a Latin design), then the additive model's front.

    The front's unseen members are evaluated in the order in which they add hypervolume; the model is refitted
    when all are done. Returns False: it never stops early.
    """
    space = ledger.space
    if space.swaps + 1 <= SWAP_SHARE * ledger.budget:
        ledger.ask(np.concatenate([space.teacher(), space.single_swaps()]))
    else:
        rows = space.latin(rng, max(1, int(DESIGN_SHARE * ledger.budget)))
        ledger.ask(np.concatenate([space.teacher(), rows]))
    while ledger.remaining:
        model = with_known(fit(space, ledger.assignments, ledger.costs), ledger)
        front = ledger.unseen(exact_front(model, sums=ledger.constraints.sums_aside))
        if not len(front):
            # The model's front is spent: go on to what it thinks comes next, then to anything.
            front = ledger.unseen(space.neighbors(ledger.assignments[ledger.front()]))
        if not len(front):
            front = ledger.unseen(space.random(rng, 64))
        if len(front):
            front = ledger.preferred(front)
            order = spread_order(model.predict(front), ledger.counted(), ledger.reference(), ledger.remaining)
            ledger.ask(front[order])
    return False
