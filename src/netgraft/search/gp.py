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
import torch
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
class Encoded:
    """Assignments as the kernel reads them."""

    rows: IntArray
    """(n, S)."""
    onehot: torch.Tensor
    """(n, sum of K), float64."""
    shares: torch.Tensor
    """(n, max K): occurrences of each option index, less their mean over the space, over sqrt(S)."""


class Encoder:
    """Turns assignments of one space into kernel features."""

    def __init__(self, space: Space) -> None:
        self.space = space
        sizes = np.asarray(space.cardinalities)
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        self.site_of = torch.from_numpy(np.repeat(np.arange(space.sites), sizes))
        """(sum of K,) the site that a one-hot column belongs to."""
        self.inverse_sizes = torch.from_numpy(1.0 / sizes)
        """(S,) 1 / K."""
        self._option_of = torch.from_numpy(np.concatenate([np.arange(k) for k in sizes]))

    def __call__(self, rows: IntArray) -> Encoded:
        """rows: (n, S)."""
        onehot = np.zeros((len(rows), self._offsets[-1]))
        np.put_along_axis(onehot, rows + self._offsets[:-1], 1.0, axis=1)
        hot = torch.from_numpy(onehot)
        centered = hot - self.inverse_sizes[self.site_of]
        shares = torch.zeros(len(rows), max(self.space.cardinalities), dtype=torch.float64)
        shares.index_add_(1, self._option_of, centered)
        return Encoded(rows, hot, shares / np.sqrt(self.space.sites))


def _consecutive_matches(a: IntArray, b: IntArray) -> torch.Tensor:
    """(n, p): number of sites s at which rows of ``a`` (n, S) and ``b`` (p, S) agree at s and at s + 1."""
    count = np.zeros((len(a), len(b)))
    before = a[:, None, 0] == b[None, :, 0]
    for site in range(1, a.shape[1]):
        here = a[:, None, site] == b[None, :, site]
        count += before & here
        before = here
    return torch.from_numpy(count)


class Kernel:
    """The covariance between assignments, as a function of the log parameters (7 + 2 S,)."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        sites = encoder.space.sites
        self.prior_mean = torch.from_numpy(np.concatenate([_PRIOR_MEAN, np.zeros(2 * sites)]))
        self.prior_sd = torch.from_numpy(np.concatenate([_PRIOR_SD, np.full(2 * sites, _SITE_PRIOR_SD)]))

    def site_weights(self, theta: torch.Tensor) -> torch.Tensor:
        """(S,) variance of the additive effects at each site."""
        sites = self.encoder.space.sites
        return torch.exp(theta[_ADDITIVE] + theta[7 : 7 + sites]) / sites

    def __call__(self, theta: torch.Tensor, a: Encoded, b: Encoded, consecutive: torch.Tensor) -> torch.Tensor:
        """(n, p) covariance of ``a`` (n rows) and ``b`` (p rows), whose consecutive matches are given."""
        site, inverse = self.encoder.site_of, self.encoder.inverse_sizes
        sites = len(inverse)
        weight = self.site_weights(theta)
        pair = torch.exp(theta[7 + sites :])
        square = pair**2

        def agreeing(per_site: torch.Tensor) -> torch.Tensor:
            return (a.onehot * per_site[site]) @ b.onehot.T

        # With e_s = 1 where both agree at site s, the centered kernel is e_s - 1/K, its square linear in e_s.
        total = 1.0 + agreeing(weight) - (weight * inverse).sum()
        once = agreeing(pair) - (pair * inverse).sum()
        twice = agreeing(square * (1 - 2 * inverse)) + (square * inverse**2).sum()
        total = total + torch.exp(theta[_PAIRS]) * (once**2 - twice) / max(1, sites * (sites - 1))
        total = total + torch.exp(theta[_NEIGHBORS]) * self._neighbors(agreeing, consecutive)
        total = total + torch.exp(theta[_SHARES]) * (a.shares @ b.shares.T)
        changed = sites - a.onehot @ b.onehot.T
        return total + torch.exp(theta[_HAMMING]) * torch.exp(-changed / (sites * torch.exp(theta[_LENGTH])))

    def _neighbors(self, agreeing: Callable[[torch.Tensor], torch.Tensor], consecutive: torch.Tensor) -> torch.Tensor:
        """(n, p) mean over consecutive sites of the product of their centered kernels."""
        inverse = self.encoder.inverse_sizes
        linear = torch.zeros_like(inverse)
        linear[:-1] += inverse[1:]
        linear[1:] += inverse[:-1]
        constant = (inverse[1:] * inverse[:-1]).sum()
        return (consecutive - agreeing(linear) + constant) / max(1, len(inverse) - 1)

    def diagonal(self, theta: torch.Tensor, a: Encoded) -> torch.Tensor:
        """(n,) prior variances of the rows of ``a``."""
        inverse = self.encoder.inverse_sizes
        sites = len(inverse)
        own = 1 - inverse
        pair = torch.exp(theta[7 + sites :])
        once, twice = (pair * own).sum(), (pair**2 * own**2).sum()
        total = 1.0 + (self.site_weights(theta) * own).sum()
        total = total + torch.exp(theta[_PAIRS]) * (once**2 - twice) / max(1, sites * (sites - 1))
        total = total + torch.exp(theta[_NEIGHBORS]) * (own[1:] * own[:-1]).sum() / max(1, sites - 1)
        return total + torch.exp(theta[_SHARES]) * (a.shares**2).sum(dim=1) + torch.exp(theta[_HAMMING])


class Gp:
    """One objective's Gaussian process: fitted by maximum a posteriori, float64."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._kernel = Kernel(encoder)

    def fit(self, data: Encoded, consecutive: torch.Tensor, values: FloatArray, steps: int) -> None:
        """Take in the evaluations; learn the parameters in at most ``steps`` steps.

        data: n rows; consecutive: (n, n) matches among them; values: (n,). Every fit starts from the prior:
        parameters that early, few evaluations suggested would otherwise hold later fits in their optimum.
        """
        self._data = data
        self._mean = float(values.mean())
        self._scale = float(values.std()) or 1.0
        target = torch.from_numpy((values - self._mean) / self._scale)
        self._theta = self._learn(data, consecutive, target, steps)
        with torch.no_grad():
            self._factor, noise = self._factorize(self._theta, data, consecutive)
            self._dual = torch.cholesky_solve(target[:, None], self._factor)[:, 0]
        self.noise_sd = float(torch.sqrt(noise)) * self._scale
        """Standard deviation of the evaluation noise, in the objective's unit."""

    def _factorize(
        self, theta: torch.Tensor, data: Encoded, consecutive: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cholesky factor (n, n) of the data's covariance, and the noise variance in it."""
        covariance = self._kernel(theta, data, data, consecutive)
        noise = torch.exp(theta[_NOISE]) + _MIN_NOISE
        identity = torch.eye(len(covariance), dtype=torch.float64)
        for jitter in (0.0, 1e-6, 1e-4, 1e-2):
            factor, failed = torch.linalg.cholesky_ex(covariance + (noise + jitter) * identity)
            if not failed:
                return factor, noise
        # Rounding cannot explain this much: the kernel is a sum of positive semi-definite parts.
        raise AssertionError("covariance is not positive definite")

    def _learn(self, data: Encoded, consecutive: torch.Tensor, target: torch.Tensor, steps: int) -> torch.Tensor:
        """The log parameters that maximize likelihood times prior, by L-BFGS."""
        prior_mean, prior_sd = self._kernel.prior_mean, self._kernel.prior_sd

        # A search may run inside its caller's torch.no_grad().
        @torch.enable_grad()
        def loss(vector: FloatArray) -> tuple[float, FloatArray]:
            theta = torch.from_numpy(vector.copy()).requires_grad_()
            factor, _ = self._factorize(theta, data, consecutive)
            whitened = torch.linalg.solve_triangular(factor, target[:, None], upper=False)
            likelihood = 0.5 * (whitened**2).sum() + torch.log(torch.diagonal(factor)).sum()
            prior = 0.5 * (((theta - prior_mean) / prior_sd) ** 2).sum()
            value = likelihood + prior
            (gradient,) = torch.autograd.grad(value, theta)
            return float(value.detach()), gradient.numpy()

        center = prior_mean.numpy()
        bounds = np.stack([center - _BOUNDS, center + _BOUNDS], axis=1)
        found = scipy_minimize(  # type: ignore[no-untyped-call]
            loss, center, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}
        )
        return torch.from_numpy(found.x) if np.isfinite(found.x).all() else prior_mean

    @torch.no_grad()
    def predict(self, points: Encoded, consecutive: torch.Tensor) -> tuple[FloatArray, FloatArray]:
        """Posterior mean and standard deviation, without noise, at p points: (p,) and (p,).

        consecutive: (p, n) matches between the points and the data.
        """
        cross = self._kernel(self._theta, points, self._data, consecutive)
        mean = cross @ self._dual
        whitened = torch.linalg.solve_triangular(self._factor, cross.T, upper=False)
        variance = self._kernel.diagonal(self._theta, points) - (whitened**2).sum(dim=0)
        sd = torch.sqrt(torch.clamp(variance, min=1e-12))
        return self._mean + self._scale * mean.numpy(), self._scale * sd.numpy()

    @torch.no_grad()
    def additive_effects(self) -> FloatArray:
        """(sum of K,) posterior mean of each option's own effect, up to a constant a site."""
        weight = self._kernel.site_weights(self._theta)[self._encoder.site_of]
        own = weight * (self._data.onehot.T @ self._dual)
        shares = torch.exp(self._theta[_SHARES]) * (self._data.shares.T @ self._dual)
        option = torch.cat([torch.arange(k) for k in self._encoder.space.cardinalities])
        effects = own + shares[option] / np.sqrt(self._encoder.space.sites)
        return np.asarray(self._scale * effects.numpy())


class Gps:
    """The GPs of all objectives over shared data; known objectives are exact."""

    def __init__(self, space: Space, modelled: list[int], objectives: int) -> None:
        self.space = space
        self._encoder = Encoder(space)
        self._gps = {m: Gp(self._encoder) for m in modelled}
        self._objectives = objectives

    def fit(self, assignments: IntArray, costs: FloatArray, steps: int) -> None:
        """assignments: (n, S), costs: (n, M)."""
        self._data = self._encoder(assignments)
        consecutive = _consecutive_matches(assignments, assignments)
        for m, gp in self._gps.items():
            gp.fit(self._data, consecutive, costs[:, m], steps)

    def predict(self, points: IntArray) -> tuple[FloatArray, FloatArray]:
        """Posterior mean and standard deviation at ``points`` (p, S): (p, M) each, 0 for known objectives."""
        encoded = self._encoder(points)
        consecutive = _consecutive_matches(points, self._data.rows)
        mean, sd = np.zeros((2, len(points), self._objectives))
        for m, gp in self._gps.items():
            mean[:, m], sd[:, m] = gp.predict(encoded, consecutive)
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
