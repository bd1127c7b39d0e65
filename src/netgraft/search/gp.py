"""A Gaussian process over assignments that starts from additivity and learns what is left.

The additive part of its kernel is the additive model as a prior, with its uncertainty: where nothing else is
learned the posterior mean is the additive prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from scipy.linalg import cho_solve, cholesky, lapack, solve_triangular
from scipy.optimize import minimize as scipy_minimize

from netgraft.search.additive import AdditiveModel
from netgraft.search.kernel import NOISE, SHARES, Encoder, Kernel, Relation
from netgraft.search.space import FloatArray, IntArray, Space, Table

_MIN_NOISE = 1e-6
"""Least noise variance, relative to the objective's: keeps the Cholesky factorization well conditioned."""
_BOUNDS = 9.0
"""Log parameters stay within this distance of their prior mean."""


class Gp:
    """One objective's Gaussian process: fitted by maximum a posteriori, float64."""

    def __init__(self, encoder: Encoder, spread: FloatArray | None = None) -> None:
        self._encoder = encoder
        self._kernel = Kernel(encoder, spread)

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
        noise = np.exp(self._theta[NOISE]) + _MIN_NOISE
        self._factor = _factorize(self._kernel(self._theta, data), noise)
        self._dual = cho_solve((self._factor, True), target)  # type: ignore[no-untyped-call]
        self.noise_sd = float(np.sqrt(noise)) * self._scale
        """Standard deviation of the evaluation noise, in the objective's unit."""

    def _learn(self, data: Relation, target: FloatArray, steps: int) -> FloatArray:
        """The log parameters that maximize likelihood times prior, by L-BFGS."""
        center = self._kernel.prior_mean

        def loss(theta: FloatArray) -> tuple[float, FloatArray]:
            covariance, pullback = self._kernel.covariance_and_pullback(theta, data)
            factor = _factorize(covariance, np.exp(theta[NOISE]) + _MIN_NOISE)
            dual = cho_solve((factor, True), target)  # type: ignore[no-untyped-call]
            prior, slope = self._kernel.prior_loss(theta)
            value = 0.5 * target @ dual + np.log(np.diag(factor)).sum() + prior
            # d loss / d covariance (Rasmussen and Williams, 2006, eq. 5.9).
            inverse = lapack.dpotri(factor, lower=True)[0]  # type: ignore[attr-defined]
            inverse = np.tril(inverse) + np.tril(inverse, -1).T
            outer = 0.5 * (inverse - np.outer(dual, dual))
            gradient = pullback(outer)
            gradient[NOISE] = np.exp(theta[NOISE]) * np.trace(outer)
            return float(value), gradient + slope

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
        shares = np.exp(self._theta[SHARES]) * (encoder.shares(self._data).T @ self._dual)
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
    """The GPs of all objectives over shared data; known objectives are exact.

    guess: for some objectives, what each option of each of S sites is expected to cost.
    """

    def __init__(
        self, space: Space, modelled: list[int], objectives: int, guess: Mapping[int, Table] = MappingProxyType({})
    ) -> None:
        self.space = space
        self._encoder = Encoder(space)
        spread = {m: np.array([np.ptp(row) for row in table]) for m, table in guess.items()}
        self._gps = {m: Gp(self._encoder, spread.get(m)) for m in modelled}
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
