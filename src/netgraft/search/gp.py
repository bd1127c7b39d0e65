"""A Gaussian process over assignments that starts from additivity and learns what is left.

The kernel is a sum of parts, each with its own learned variance:

- additive: one effect for each option of each site, with a learned weight a site;
- pairs: an interaction between the options of any two sites, also weighted by site;
- neighbors: the same for consecutive sites only, which feed each other;
- shares: how often each option index occurs, since the same operator does similar harm at similar sites;
- Hamming: exp(-changed sites / length), for whatever is left.

The additive part is the additive model as a prior, with its uncertainty: where nothing else is learned the
posterior mean is the additive prediction. The per-site kernels are centered (they sum to 0 over the options),
so that the pairs hold pure interactions. All pairs together cost no more than the sites, because
sum over s < t of a_s * a_t = ((sum a_s)**2 - sum a_s**2) / 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, lapack, solve_triangular
from scipy.optimize import minimize as scipy_minimize

from netgraft.search.additive import AdditiveModel
from netgraft.search.space import FloatArray, IntArray, Space

_ADDITIVE, _PAIRS, _NEIGHBORS, _SHARES, _HAMMING, _LENGTH, _NOISE = range(7)
_PRIOR_MEAN = np.log([1.0, 0.2, 0.05, 0.05, 0.1, 0.5, 1e-4])
_PRIOR_SD = np.array([1.5, 1.5, 1.5, 1.5, 1.5, 0.5, 2.0])
_SITE_PRIOR_SD = 0.7
"""Of the log weight of a site, around 0."""
_MIN_NOISE = 1e-6
"""Least noise variance, relative to the objective's: keeps the Cholesky factorization well conditioned."""
_BOUNDS = 9.0
"""Log parameters stay within this distance of their prior mean."""


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


class Kernel:
    """The covariance between assignments, as a function of the log parameters (7 + 2 S,)."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        sites = encoder.space.sites
        self._pairs = max(1, sites * (sites - 1))
        self.prior_mean = np.concatenate([_PRIOR_MEAN, np.zeros(2 * sites)])
        self.prior_sd = np.concatenate([_PRIOR_SD, np.full(2 * sites, _SITE_PRIOR_SD)])

    def site_weights(self, theta: FloatArray) -> FloatArray:
        """(S,) variance of the additive effects at each site."""
        sites = self.encoder.space.sites
        return np.asarray(np.exp(theta[_ADDITIVE] + theta[7 : 7 + sites]) / sites)

    def __call__(self, theta: FloatArray, relation: Relation) -> FloatArray:
        """(n, p) covariance."""
        return self._parts(theta, relation)[0]

    def _parts(self, theta: FloatArray, relation: Relation) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """(n, p) each: the covariance, its pairs and its Hamming part, and the weighted sum of centered matches."""
        site, inverse = self.encoder.site_of, self.encoder.inverse_sizes
        weight, pair = self.site_weights(theta), np.exp(theta[7 + len(inverse) :])
        square = pair**2
        # With e_s = 1 where both agree at site s, the centered kernel is e_s - 1/K, its square linear in e_s.
        b = relation.b.T
        once = (relation.a * pair[site]) @ b - (pair * inverse).sum()
        twice = (relation.a * (square * (1 - 2 * inverse))[site]) @ b + (square * inverse**2).sum()
        pairs = np.exp(theta[_PAIRS]) / self._pairs * (once**2 - twice)
        hamming = np.exp(theta[_HAMMING] - relation.changed * np.exp(-theta[_LENGTH]))
        total = 1.0 + (relation.a * weight[site]) @ b - (weight * inverse).sum() + pairs + hamming
        total += np.exp(theta[_NEIGHBORS]) * relation.neighbors + np.exp(theta[_SHARES]) * relation.shares
        return total, pairs, hamming, once

    def covariance_and_pullback(
        self, theta: FloatArray, relation: Relation
    ) -> tuple[FloatArray, Callable[[FloatArray], FloatArray]]:
        """The covariance (n, n) of assignments with themselves, and what turns d loss / d covariance, symmetric,
        into d loss / d theta (7 + 2 S,)."""
        total, pairs, hamming, once = self._parts(theta, relation)
        inverse = self.encoder.inverse_sizes
        sites = len(inverse)
        pair = np.exp(theta[7 + sites :])
        scale = np.exp(theta[_PAIRS]) / self._pairs

        def matches(outer: FloatArray) -> FloatArray:
            """(S,) sum of ``outer`` (n, n) over the pairs that agree at each site."""
            columns = (relation.a * (outer @ relation.b)).sum(axis=0)
            return np.asarray(np.add.reduceat(columns, self.encoder.offsets[:-1]))

        def pullback(outer: FloatArray) -> FloatArray:
            own, mixed = matches(outer), outer * once
            additive = self.site_weights(theta) * (own - outer.sum() * inverse)
            squares = own * (1 - 2 * inverse) + outer.sum() * inverse**2
            crossed = matches(mixed) - mixed.sum() * inverse
            gradient = np.zeros_like(theta)
            gradient[_ADDITIVE] = additive.sum()
            gradient[_PAIRS] = (outer * pairs).sum()
            gradient[_NEIGHBORS] = np.exp(theta[_NEIGHBORS]) * (outer * relation.neighbors).sum()
            gradient[_SHARES] = np.exp(theta[_SHARES]) * (outer * relation.shares).sum()
            gradient[_HAMMING] = (outer * hamming).sum()
            gradient[_LENGTH] = (outer * hamming * relation.changed).sum() * np.exp(-theta[_LENGTH])
            gradient[7 : 7 + sites] = additive
            gradient[7 + sites :] = 2 * scale * pair * (crossed - pair * squares)
            return gradient

        return total, pullback

    def diagonal(self, theta: FloatArray, shares: FloatArray) -> FloatArray:
        """(n,) prior variances of assignments with these ``shares`` (n, max K)."""
        inverse = self.encoder.inverse_sizes
        own, pair = 1 - inverse, np.exp(theta[7 + len(inverse) :])
        once, twice = (pair * own).sum(), (pair**2 * own**2).sum()
        total = 1.0 + (self.site_weights(theta) * own).sum()
        total += np.exp(theta[_PAIRS]) * (once**2 - twice) / self._pairs
        total += np.exp(theta[_NEIGHBORS]) * (own[1:] * own[:-1]).sum() / max(1, len(inverse) - 1)
        return np.asarray(total + np.exp(theta[_SHARES]) * (shares**2).sum(axis=1) + np.exp(theta[_HAMMING]))


class Gp:
    """One objective's Gaussian process: fitted by maximum a posteriori, float64."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._kernel = Kernel(encoder)

    def fit(self, data: Relation, values: FloatArray, steps: int) -> None:
        """Take in the evaluations; learn the parameters in at most ``steps`` steps.

        data: n rows with themselves; values: (n,). Every fit starts from the prior: parameters that early, few
        evaluations suggested would otherwise hold later fits in their optimum.
        """
        self._data = data.a
        self._mean = float(values.mean())
        self._scale = float(values.std()) or 1.0
        target = (values - self._mean) / self._scale
        self._theta = self._learn(data, target, steps)
        noise = np.exp(self._theta[_NOISE]) + _MIN_NOISE
        self._factor = _factorize(self._kernel(self._theta, data), noise)
        self._dual = cho_solve((self._factor, True), target)  # type: ignore[no-untyped-call]
        self.noise_sd = float(np.sqrt(noise)) * self._scale
        """Standard deviation of the evaluation noise, in the objective's unit."""

    def _learn(self, data: Relation, target: FloatArray, steps: int) -> FloatArray:
        """The log parameters that maximize likelihood times prior, by L-BFGS."""
        center, spread = self._kernel.prior_mean, self._kernel.prior_sd

        def loss(theta: FloatArray) -> tuple[float, FloatArray]:
            covariance, pullback = self._kernel.covariance_and_pullback(theta, data)
            factor = _factorize(covariance, np.exp(theta[_NOISE]) + _MIN_NOISE)
            dual = cho_solve((factor, True), target)  # type: ignore[no-untyped-call]
            deviation = (theta - center) / spread
            value = 0.5 * target @ dual + np.log(np.diag(factor)).sum() + 0.5 * deviation @ deviation
            # d loss / d covariance (Rasmussen and Williams, 2006, eq. 5.9).
            inverse = lapack.dpotri(factor, lower=True)[0]  # type: ignore[attr-defined]
            inverse = np.tril(inverse) + np.tril(inverse, -1).T
            outer = 0.5 * (inverse - np.outer(dual, dual))
            gradient = pullback(outer)
            gradient[_NOISE] = np.exp(theta[_NOISE]) * np.trace(outer)
            return float(value), gradient + deviation / spread

        bounds = np.stack([center - _BOUNDS, center + _BOUNDS], axis=1)
        found = scipy_minimize(  # type: ignore[no-untyped-call]
            loss, center, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}
        )
        return np.asarray(found.x) if np.isfinite(found.x).all() else center

    def predict(self, points: Relation) -> tuple[FloatArray, FloatArray]:
        """Posterior mean and standard deviation, without noise, at p points: (p,) and (p,).

        points: p rows with the data.
        """
        cross = self._kernel(self._theta, points)
        whitened = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        prior = self._kernel.diagonal(self._theta, self._encoder.shares(points.a))
        variance = prior - np.einsum("ij,ij->j", whitened, whitened)
        sd = np.sqrt(np.maximum(variance, 1e-12))
        return self._mean + self._scale * (cross @ self._dual), self._scale * sd

    def additive_effects(self) -> FloatArray:
        """(sum of K,) posterior mean of each option's own effect, up to a constant a site."""
        encoder = self._encoder
        own = self._kernel.site_weights(self._theta)[encoder.site_of] * (self._data.T @ self._dual)
        shares = np.exp(self._theta[_SHARES]) * (encoder.shares(self._data).T @ self._dual)
        return np.asarray(self._scale * (own + shares[encoder.option_of] / np.sqrt(encoder.space.sites)))


def _factorize(covariance: FloatArray, noise: float) -> FloatArray:
    """Lower Cholesky factor (n, n) of ``covariance`` plus ``noise``."""
    for jitter in (0.0, 1e-6, 1e-4, 1e-2):
        try:
            return np.asarray(cholesky(covariance + (noise + jitter) * np.eye(len(covariance)), lower=True))
        except np.linalg.LinAlgError:
            continue
    # Rounding cannot explain this much: the kernel is a sum of positive semi-definite parts.
    raise AssertionError("covariance is not positive definite")


class Gps:
    """The GPs of all objectives over shared data; known objectives are exact."""

    def __init__(self, space: Space, modelled: list[int], objectives: int) -> None:
        self.space = space
        self._encoder = Encoder(space)
        self._gps = {m: Gp(self._encoder) for m in modelled}
        self._objectives = objectives

    def fit(self, assignments: IntArray, costs: FloatArray, steps: int) -> None:
        """assignments: (n, S), costs: (n, M)."""
        self._rows = assignments
        data = self._encoder.relate(assignments, assignments)
        for m, gp in self._gps.items():
            gp.fit(data, costs[:, m], steps)

    def predict(self, points: IntArray) -> tuple[FloatArray, FloatArray]:
        """Posterior mean and standard deviation at ``points`` (p, S): (p, M) each, 0 for known objectives."""
        relation = self._encoder.relate(points, self._rows)
        mean, sd = np.zeros((2, len(points), self._objectives))
        for m, gp in self._gps.items():
            mean[:, m], sd[:, m] = gp.predict(relation)
        return mean, sd

    def noise_sd(self) -> dict[int, float]:
        """Standard deviation of each modelled objective's noise, in its unit."""
        return {m: gp.noise_sd for m, gp in self._gps.items()}

    def additive(self) -> AdditiveModel:
        """The linear parts of the posterior means as an additive model; its intercept is 0."""
        flat = np.zeros((len(self._encoder.site_of), self._objectives))
        for m, gp in self._gps.items():
            flat[:, m] = gp.additive_effects()
        parts = np.split(flat, np.cumsum(self.space.cardinalities)[:-1])
        return AdditiveModel(np.zeros(self._objectives), tuple(part - part[0] for part in parts))
