"""Expected hypervolume improvement (EHVI), exact for independent Gaussian objectives.

The region that a new point could still win is cut into boxes; within a box the won volume is a product over
the objectives, so its expectation is a product of one-dimensional ones (Emmerich et al., 2006; Yang et al.,
2019). No sampling is needed, and an objective that is known exactly is one with standard deviation 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import ndtr

from netgraft.search.pareto import non_dominated
from netgraft.search.space import FloatArray

_BLOCK_CELLS = 2_000_000
"""Numbers held at once while boxes are summed: bounds the memory for many boxes times many points."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """The region below a reference point that a front does not dominate, as c disjoint boxes."""

    lower: FloatArray
    """(c, M), -inf where a box is open below."""
    upper: FloatArray
    """(c, M)."""


def boxes_below(costs: FloatArray, reference: FloatArray) -> Boxes:
    """The non-dominated region of ``costs`` (n, M) below ``reference`` (M,)."""
    inside = costs[(costs < reference).all(axis=1)]
    front = np.unique(inside[non_dominated(inside)], axis=0)
    lower, upper = _boxes(front, reference)
    return Boxes(lower, upper)


def _boxes(front: FloatArray, reference: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slabs between the front's levels of the last objective, each cut the same way in the others."""
    levels = np.unique(front[:, -1]) if len(front) else front.reshape(0)
    if len(reference) == 1:
        top = levels[:1] if len(levels) else reference
        return np.full((1, 1), -np.inf), top.reshape(1, 1)
    edges = np.concatenate([[-np.inf], levels, reference[-1:]])
    lowers, uppers = [], []
    for low, high in pairwise(edges):
        below = front[front[:, -1] <= low, :-1]
        lower, upper = _boxes(below[non_dominated(below)], reference[:-1])
        lowers.append(np.column_stack([lower, np.full(len(lower), low)]))
        uppers.append(np.column_stack([upper, np.full(len(upper), high)]))
    return np.concatenate(lowers), np.concatenate(uppers)


def expected_improvement(mean: FloatArray, sd: FloatArray, boxes: Boxes) -> FloatArray:
    """EHVI of each of p points whose objectives are independent Gaussians.

    mean, sd: (p, M), sd may be 0. Returns (p,), in the product of the objectives' units.
    """
    points, count = len(mean), len(boxes.lower)
    total = np.zeros(points)
    step = max(1, _BLOCK_CELLS // max(1, count))
    for start in range(0, points, step):
        rows = slice(start, start + step)
        product = np.ones((len(mean[rows]), count))
        for m in range(mean.shape[1]):
            # Boxes share few distinct edges: the expectation is worked out once an edge, then spread.
            edges, where = np.unique(np.concatenate([boxes.lower[:, m], boxes.upper[:, m]]), return_inverse=True)
            shortfall = _expected_shortfall(mean[rows, m], sd[rows, m], edges)
            product *= shortfall[:, where[count:]] - shortfall[:, where[:count]]
        total[rows] = product.sum(axis=1)
    return total


def _expected_shortfall(mean: FloatArray, sd: FloatArray, edges: FloatArray) -> FloatArray:
    """E[max(edge - f, 0)] for f ~ N(mean, sd**2): (p, edges); 0 at an edge of -inf."""
    finite = np.isfinite(edges)
    gap = np.where(finite, edges, 0.0)[None, :] - mean[:, None]
    spread = np.maximum(sd, 1e-300)[:, None]
    z = np.clip(gap / spread, -40.0, 40.0)
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    soft = gap * ndtr(z) + sd[:, None] * density
    exact = np.maximum(gap, 0.0)
    value = np.where(sd[:, None] > 0, np.maximum(soft, 0.0), exact)
    return np.where(finite[None, :], value, 0.0)
