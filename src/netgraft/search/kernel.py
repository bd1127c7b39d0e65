"""The covariance of assignments: additive over sites first, then what may be left.

The kernel is a sum of parts, each with its own learned variance:

- additive: one effect for each option of each site, with a learned weight a site;
- pairs: an interaction between the options of any two sites, also weighted by site;
- neighbors: the same for consecutive sites only, which feed each other;
- shares: how often each option index occurs, since the same operator does similar harm at similar sites;
- Hamming: exp(-changed sites / length), for whatever is left between categories;
- order: a squared exponential over the option indices, with a learned length a site, for options that have an
  order, as widths and precisions do.

The per-site kernels are centered (they sum to 0 over the options), so that the pairs hold pure interactions. All
pairs together cost no more than the sites, because sum over s < t of a_s * a_t = ((sum a_s)**2 - sum a_s**2) / 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from netgraft.search.space import FloatArray, IntArray, Space

ADDITIVE, PAIRS, NEIGHBORS, SHARES, HAMMING, HAMMING_LENGTH, ORDER, NOISE = range(8)
"""Where the log parameters that are one for all sites stand; S additive weights, S pair weights and S lengths of
the order follow. The noise is a parameter of the process that uses the kernel, and not in the covariance."""
# The additive part has the narrowest prior: few evaluations, spread evenly, underestimate its variance, and the
# GP would be too sure of what it has hardly seen.
_PRIOR_MEAN = np.log([3.0, 0.2, 0.05, 0.05, 0.1, 0.5, 0.01, 1e-4])
_PRIOR_SD = np.array([0.4, 1.5, 1.5, 1.5, 1.5, 0.5, 1.5, 2.0])
_WEIGHT_PRIOR_SD = 0.7
"""Of the log weight of a site, around 0."""
_WEIGHT_PRIOR_RANGE = 3.0
"""Of the prior means of the log weights, at most, where the caller says what to expect of the sites."""
_LEAST_SPREAD = 0.01
"""A site's expected spread is taken to be at least about this share of the sites' mean."""
_ORDER_LENGTH = np.log(0.5)
_ORDER_LENGTH_SD = 0.5
"""Of the log length of the order at a site, in units of its range of option indices."""


@dataclass(frozen=True, slots=True)
class Relation:
    """What two lists of n and p assignments have in common, as the kernel reads it."""

    a: FloatArray
    """(n, sum of K) one-hot."""
    b: FloatArray
    """(p, sum of K) one-hot."""
    neighbors: FloatArray
    """(n, p) mean over consecutive sites of the product of their centered matches."""
    shares: FloatArray
    """(n, p) inner product of the centered counts of each option index, over S."""
    changed: FloatArray
    """(n, p) share of the sites at which they differ."""
    u: FloatArray
    """(n, S) option indices of the first, scaled to [0, 1] at each site."""
    v: FloatArray
    """(p, S) those of the second."""


class Encoder:
    """Turns assignments of one space into kernel features."""

    def __init__(self, space: Space) -> None:
        self.space = space
        sizes = np.asarray(space.cardinalities)
        self.offsets = np.concatenate([[0], np.cumsum(sizes)])
        """(S + 1,) where each site's one-hot columns begin."""
        self.site_of = np.repeat(np.arange(space.sites), sizes)
        """(sum of K,) the site that a one-hot column belongs to."""
        self.option_of = np.concatenate([np.arange(k) for k in sizes])
        """(sum of K,) the option that it stands for."""
        self.inverse_sizes = 1.0 / sizes
        """(S,) 1 / K."""
        self.last_option = np.maximum(sizes - 1, 1)
        """(S,) K - 1, the largest option index, or 1 where there is only one option."""

    def onehot(self, rows: IntArray) -> FloatArray:
        """rows: (n, S) -> (n, sum of K)."""
        hot = np.zeros((len(rows), self.offsets[-1]))
        np.put_along_axis(hot, rows + self.offsets[:-1], 1.0, axis=1)
        return hot

    def shares(self, hot: FloatArray) -> FloatArray:
        """(n, max K): occurrences of each option index, less their mean over the space, over sqrt(S)."""
        which = np.eye(max(self.space.cardinalities))[self.option_of]
        return np.asarray((hot - self.inverse_sizes[self.site_of]) @ which / np.sqrt(self.space.sites))

    def relate(self, first: IntArray, second: IntArray) -> Relation:
        """first: (n, S), second: (p, S)."""
        a, b = self.onehot(first), self.onehot(second)
        return Relation(
            a=a,
            b=b,
            neighbors=self._neighbors(first, second, a, b),
            shares=self.shares(a) @ self.shares(b).T,
            changed=1.0 - a @ b.T / self.space.sites,
            u=first / self.last_option,
            v=second / self.last_option,
        )

    def _neighbors(self, first: IntArray, second: IntArray, a: FloatArray, b: FloatArray) -> FloatArray:
        """With e_s = 1 where both agree at s: the mean of (e_s - 1/K_s) (e_t - 1/K_t) over t = s + 1."""
        inverse = self.inverse_sizes
        both = np.zeros((len(first), len(second)))
        before = first[:, None, 0] == second[None, :, 0]
        for site in range(1, len(inverse)):
            here = first[:, None, site] == second[None, :, site]
            both += before & here
            before = here
        linear = np.zeros_like(inverse)
        linear[:-1] += inverse[1:]
        linear[1:] += inverse[:-1]
        total = both - (a * linear[self.site_of]) @ b.T + (inverse[1:] * inverse[:-1]).sum()
        return np.asarray(total / max(1, len(inverse) - 1))


@dataclass(frozen=True, slots=True)
class _Parts:
    """The covariance (n, p) and what its gradient needs again."""

    total: FloatArray
    pairs: FloatArray
    hamming: FloatArray
    order: FloatArray
    once: FloatArray
    """Weighted sum of the centered matches, of which the pairs are made."""


class Kernel:
    """The covariance between assignments, as a function of the log parameters (8 + 3 S,).

    spread: (S,) how far the options of each site are expected to lie apart, in any unit: where the weights of the
        sites start from. Without it all sites are alike beforehand.
    """

    def __init__(self, encoder: Encoder, spread: FloatArray | None = None) -> None:
        self.encoder = encoder
        sites = encoder.space.sites
        self._pairs = max(1, sites * (sites - 1))
        self._weights, self._pair_weights, self._lengths = (
            slice(len(_PRIOR_MEAN) + k * sites, len(_PRIOR_MEAN) + (k + 1) * sites) for k in range(3)
        )
        weights = np.zeros(sites) if spread is None or not spread.any() else _log_weights(spread)
        # A pair's weight is the product of two: with half the logarithm each it is the mean of what is expected.
        self.prior_mean = np.concatenate([_PRIOR_MEAN, weights, 0.5 * weights, np.full(sites, _ORDER_LENGTH)])
        self._prior_sd = np.concatenate(
            [_PRIOR_SD, np.full(2 * sites, _WEIGHT_PRIOR_SD), np.full(sites, _ORDER_LENGTH_SD)]
        )

    def prior_loss(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """Minus the log prior density of the parameters, up to a constant, and its gradient (8 + 3 S,).

        Normal for the parameters that all sites share, hyperbolic for those of a single site: normal near the mean,
        with exponential tails, so that a site that does not matter to this objective can be told to be just that.
        """
        shared = len(_PRIOR_MEAN)
        deviation = (theta - self.prior_mean) / self._prior_sd
        root = np.sqrt(1.0 + deviation[shared:] ** 2)
        slope = np.concatenate([deviation[:shared], deviation[shared:] / root])
        return float(0.5 * (deviation[:shared] ** 2).sum() + (root - 1.0).sum()), slope / self._prior_sd

    def site_weights(self, theta: FloatArray) -> FloatArray:
        """(S,) variance of the additive effects at each site."""
        return np.asarray(np.exp(theta[ADDITIVE] + theta[self._weights]) / self.encoder.space.sites)

    def __call__(self, theta: FloatArray, relation: Relation) -> FloatArray:
        """(n, p) covariance."""
        return self._parts(theta, relation).total

    def _parts(self, theta: FloatArray, relation: Relation) -> _Parts:
        site, inverse = self.encoder.site_of, self.encoder.inverse_sizes
        weight, pair = self.site_weights(theta), np.exp(theta[self._pair_weights])
        square = pair**2
        # With e_s = 1 where both agree at site s, the centered kernel is e_s - 1/K, its square linear in e_s.
        b = relation.b.T
        once = (relation.a * pair[site]) @ b - (pair * inverse).sum()
        twice = (relation.a * (square * (1 - 2 * inverse))[site]) @ b + (square * inverse**2).sum()
        pairs = np.exp(theta[PAIRS]) / self._pairs * (once**2 - twice)
        hamming = np.exp(theta[HAMMING] - relation.changed * np.exp(-theta[HAMMING_LENGTH]))
        order = np.exp(theta[ORDER] - 0.5 * _squared_distances(relation, np.exp(-theta[self._lengths])))
        total = 1.0 + (relation.a * weight[site]) @ b - (weight * inverse).sum() + pairs + hamming + order
        total += np.exp(theta[NEIGHBORS]) * relation.neighbors + np.exp(theta[SHARES]) * relation.shares
        return _Parts(total, pairs, hamming, order, once)

    def covariance_and_pullback(
        self, theta: FloatArray, relation: Relation
    ) -> tuple[FloatArray, Callable[[FloatArray], FloatArray]]:
        """The covariance (n, n) of assignments with themselves, and what turns d loss / d covariance, symmetric,
        into d loss / d theta (8 + 3 S,)."""
        parts = self._parts(theta, relation)
        inverse = self.encoder.inverse_sizes
        pair = np.exp(theta[self._pair_weights])
        scale = np.exp(theta[PAIRS]) / self._pairs

        def matches(outer: FloatArray) -> FloatArray:
            """(S,) sum of ``outer`` (n, n) over the pairs that agree at each site."""
            columns = (relation.a * (outer @ relation.b)).sum(axis=0)
            return np.asarray(np.add.reduceat(columns, self.encoder.offsets[:-1]))

        def pullback(outer: FloatArray) -> FloatArray:
            own, mixed, ordered = matches(outer), outer * parts.once, outer * parts.order
            additive = self.site_weights(theta) * (own - outer.sum() * inverse)
            squares = own * (1 - 2 * inverse) + outer.sum() * inverse**2
            crossed = matches(mixed) - mixed.sum() * inverse
            # Sum of ordered (n, n), symmetric, times the squared differences at each site.
            u = relation.u
            spread = 2 * (ordered.sum(axis=1) @ u**2 - (u * (ordered @ u)).sum(axis=0))
            gradient = np.zeros_like(theta)
            gradient[ADDITIVE] = additive.sum()
            gradient[PAIRS] = (outer * parts.pairs).sum()
            gradient[NEIGHBORS] = np.exp(theta[NEIGHBORS]) * (outer * relation.neighbors).sum()
            gradient[SHARES] = np.exp(theta[SHARES]) * (outer * relation.shares).sum()
            gradient[HAMMING] = (outer * parts.hamming).sum()
            gradient[HAMMING_LENGTH] = (outer * parts.hamming * relation.changed).sum() * np.exp(-theta[HAMMING_LENGTH])
            gradient[ORDER] = ordered.sum()
            gradient[self._weights] = additive
            gradient[self._pair_weights] = 2 * scale * pair * (crossed - pair * squares)
            gradient[self._lengths] = spread * np.exp(-2 * theta[self._lengths])
            return gradient

        return parts.total, pullback

    def diagonal(self, theta: FloatArray, shares: FloatArray) -> FloatArray:
        """(n,) prior variances of assignments with these ``shares`` (n, max K)."""
        inverse = self.encoder.inverse_sizes
        own, pair = 1 - inverse, np.exp(theta[self._pair_weights])
        once, twice = (pair * own).sum(), (pair**2 * own**2).sum()
        total = 1.0 + (self.site_weights(theta) * own).sum() + np.exp(theta[HAMMING]) + np.exp(theta[ORDER])
        total += np.exp(theta[PAIRS]) * (once**2 - twice) / self._pairs
        total += np.exp(theta[NEIGHBORS]) * (own[1:] * own[:-1]).sum() / max(1, len(inverse) - 1)
        return np.asarray(total + np.exp(theta[SHARES]) * (shares**2).sum(axis=1))


def _log_weights(spread: FloatArray) -> FloatArray:
    """(S,) log weights, 0 on average, for sites with this ``spread`` (S,)."""
    logs = np.log(spread / spread[spread > 0].mean() + _LEAST_SPREAD)
    return np.asarray(np.clip(logs - logs.mean(), -_WEIGHT_PRIOR_RANGE, _WEIGHT_PRIOR_RANGE))


def _squared_distances(relation: Relation, rates: FloatArray) -> FloatArray:
    """(n, p) between scaled option indices, each multiplied by its site's ``rates`` (S,)."""
    u, v = relation.u * rates, relation.v * rates
    squares = (u**2).sum(axis=1)[:, None] + (v**2).sum(axis=1)[None, :] - 2 * u @ v.T
    return np.asarray(np.maximum(squares, 0.0))
