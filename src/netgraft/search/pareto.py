"""Pareto fronts of minimized costs: dominance, hypervolume, the knee.

A point dominates another when it is no worse in every objective and better in one. The hypervolume (HV) of a
set is the volume that it dominates below a reference point; points that are not below the reference point in
every objective add nothing (Zitzler and Thiele, 1998).
"""

from __future__ import annotations

import numpy as np

from netgraft.search.space import BoolArray, FloatArray, IntArray

_BLOCK_ROWS = 512
"""Rows compared at a time when there are three objectives or more: bounds the memory of the comparison."""


def non_dominated(costs: FloatArray) -> BoolArray:
    """Which rows of ``costs`` (n, M) no other row dominates: (n,).

    Equal rows do not dominate one another: of a row that occurs twice on the front, both are kept.
    """
    costs = np.asarray(costs, dtype=np.float64)
    if costs.shape[0] == 0:
        return np.zeros(0, dtype=np.bool_)
    unique, inverse = np.unique(costs, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    if costs.shape[1] == 1:
        keep = np.arange(len(unique)) == 0
    elif costs.shape[1] == 2:
        # Rows come sorted by the first cost, then the second: the front is where the second is a new low.
        lowest = np.concatenate([[np.inf], np.minimum.accumulate(unique[:, 1])[:-1]])
        keep = unique[:, 1] < lowest
    else:
        keep = _non_dominated_many(unique)
    return np.asarray(keep[inverse], dtype=np.bool_)


def _non_dominated_many(unique: FloatArray) -> BoolArray:
    """As ``non_dominated``, for distinct rows in lexicographic order, any number of objectives."""
    keep = np.zeros(len(unique), dtype=np.bool_)
    front = unique[:0]
    for start in range(0, len(unique), _BLOCK_ROWS):
        block = unique[start : start + _BLOCK_ROWS]
        # Lexicographic order: nothing later can dominate something earlier, so the front so far is final.
        rivals = np.concatenate([front, block])
        no_worse = np.ones((len(block), len(rivals)), dtype=np.bool_)
        for m in range(unique.shape[1]):
            no_worse &= rivals[None, :, m] <= block[:, None, m]
        # Every row is no worse than itself; rows are distinct, so any second one dominates it.
        kept = no_worse.sum(axis=1) == 1
        keep[start : start + len(block)] = kept
        front = np.concatenate([front, block[kept]])
    return keep


def hypervolume(costs: FloatArray, reference: FloatArray) -> float:
    """Volume between the front of ``costs`` (n, M) and ``reference`` (M,); exact, for any M."""
    costs, reference = np.asarray(costs, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    inside = costs[(costs < reference).all(axis=1)]
    return _hypervolume(inside[non_dominated(inside)], reference)


def _hypervolume(front: FloatArray, reference: FloatArray) -> float:
    """As ``hypervolume``, for mutually non-dominated rows below the reference point; sweeps the last cost."""
    if len(front) == 0:
        return 0.0
    if front.shape[1] == 1:
        return float(reference[0] - front.min())
    order = np.argsort(front[:, -1], kind="stable")
    front = front[order]
    heights = np.diff(np.append(front[:, -1], reference[-1]))
    if front.shape[1] == 2:
        lowest = np.minimum.accumulate(front[:, 0])
        return float(np.sum((reference[0] - lowest) * heights))
    volume = 0.0
    for i in np.flatnonzero(heights > 0):
        slab = front[: i + 1, :-1]
        volume += float(heights[i]) * _hypervolume(slab[non_dominated(slab)], reference[:-1])
    return volume


def hypervolume_trace(costs: FloatArray, reference: FloatArray) -> FloatArray:
    """Hypervolume after each of the rows of ``costs`` (n, M), with respect to ``reference`` (M,): (n,)."""
    costs, reference = np.asarray(costs, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    trace = np.zeros(len(costs))
    front = costs[:0]
    volume = 0.0
    for i, point in enumerate(costs):
        inside = bool((point < reference).all())
        if inside and not (front <= point).all(axis=1).any():
            front = np.concatenate([front[~(point <= front).all(axis=1)], point[None]])
            volume = _hypervolume(front, reference)
        trace[i] = volume
    return trace


def knee(costs: FloatArray) -> int:
    """Index of the front's knee among ``costs`` (n, M), n at least 1.

    The knee is the non-dominated point nearest (Euclidean) to the ideal corner after each objective of the
    front is scaled to [0, 1]. An objective that is constant over the front does not count; of equals, the
    first row.
    """
    costs = np.asarray(costs, dtype=np.float64)
    front: IntArray = np.flatnonzero(non_dominated(costs))
    if len(front) == 0:
        raise ValueError("knee() of no points")
    points = costs[front]
    spread = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    return int(front[np.argmin(np.square(scaled).sum(axis=1))])
