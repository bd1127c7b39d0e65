"""Method "bayes": plain Bayesian optimization with BoTorch, the baseline that "auto" has to beat."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from netgraft.search.objective import Ledger
from netgraft.search.space import FloatArray, IntArray, distinct

RANDOM_POINTS = 400
"""Random assignments among the points at which the acquisition function is compared."""
NEIGHBORS = 600
"""Single swaps of the front among them, at most."""
SAMPLES = 64
"""Posterior samples."""
FIT_STEPS = 75
"""L-BFGS steps of a fit: length scales have no prior, and drift on for hundreds of steps to no effect."""
BLOCK = 250
"""Points whose acquisition values are computed at once: bounds the memory."""


def search_bayes(ledger: Ledger, rng: np.random.Generator, _tolerance: float) -> bool:
    """qLogNEHVI (Ament et al., 2023) over a GP with a categorical kernel; returns False.

    Same initial design as "auto". Every objective is modelled, the known ones too. The acquisition function
    is maximized over single swaps of the front and random assignments. It never stops early.
    """
    space = ledger.space
    ledger.ask(np.concatenate([space.teacher(), space.latin(rng, ledger.design_size - 1)]))
    while ledger.remaining:
        near = space.neighbors(ledger.assignments[ledger.front()])
        near = near[rng.permutation(len(near))[:NEIGHBORS]]
        pool = ledger.unseen(distinct(np.concatenate([near, space.random(rng, RANDOM_POINTS)])))
        if len(pool):
            pool = ledger.preferred(pool)
            values = _acquisition(ledger, pool, int(rng.integers(2**31)))
            ledger.ask(pool[np.argmax(values)][None])
    return False


def _acquisition(ledger: Ledger, pool: IntArray, seed: int) -> FloatArray:
    """qLogNEHVI at the rows of ``pool`` (p, S), after a fit to all evaluations: (p,)."""
    x = torch.from_numpy(ledger.assignments).double()
    # BoTorch maximizes: the one place where costs change their sign.
    y = -torch.from_numpy(ledger.costs)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _ignore_harmless()
        # BoTorch takes seconds to import, and only this method needs it.
        from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
        from botorch.sampling.normal import SobolQMCNormalSampler

        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model=_model(x, y, ledger),
            ref_point=-torch.from_numpy(ledger.reference()),
            # What a known limit forbids leaves its share of the volume to be won.
            X_baseline=torch.from_numpy(ledger.preferred(ledger.assignments)).double(),
            sampler=SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=seed),
            prune_baseline=True,
        )
        points = torch.from_numpy(pool).double()[:, None, :]
        with torch.no_grad():
            values = [acquisition(block) for block in torch.split(points, BLOCK)]
    return torch.cat(values).numpy()


def _model(x: torch.Tensor, y: torch.Tensor, ledger: Ledger) -> Any:
    """One fitted GP an objective, a length scale a site; x: (n, S), y: (n, M) to maximize."""
    from botorch.exceptions.errors import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.gp_regression_mixed import MixedSingleTaskGP
    from botorch.models.model_list_gp_regression import ModelListGP
    from botorch.models.transforms.outcome import Standardize
    from gpytorch.mlls import ExactMarginalLogLikelihood

    sites = list(range(ledger.space.sites))
    gps = []
    for m in range(y.shape[1]):
        gp = MixedSingleTaskGP(x, y[:, m : m + 1], cat_dims=sites, outcome_transform=Standardize(m=1))
        try:
            likelihood = ExactMarginalLogLikelihood(gp.likelihood, gp)  # type: ignore[no-untyped-call]
            fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": FIT_STEPS}})
        except ModelFittingError:
            # A constant objective has no best parameters: the initial ones predict the constant.
            gp.eval()
        gps.append(gp)
    return ModelListGP(*gps)


def _ignore_harmless() -> None:
    """Silence what says nothing here, BoTorch's import included."""
    # linear_operator, below BoTorch, compiles a function when it is imported.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=DeprecationWarning)
    from botorch.exceptions.warnings import InputDataWarning, NumericsWarning, OptimizationWarning
    from gpytorch.utils.warnings import NumericalWarning

    # Option indices are categories: that they are not scaled to [0, 1] does not matter.
    warnings.filterwarnings("ignore", category=InputDataWarning)
    # Retried fits and added jitter are BoTorch's own remedies, and it raises when they do not help.
    for category in (OptimizationWarning, NumericsWarning, NumericalWarning):
        warnings.filterwarnings("ignore", category=category)
