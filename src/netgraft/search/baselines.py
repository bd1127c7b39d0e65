"""Searches without a model: uniform random assignments, and NSGA-II."""

from __future__ import annotations

from typing import Any

import numpy as np

from netgraft.search.objective import Ledger
from netgraft.search.space import IntArray

POPULATION = 20
"""Of NSGA-II, at most a quarter of the budget: small, since budgets are."""
IDLE_GENERATIONS = 50
"""Generations of NSGA-II without a new assignment after which random ones are mixed in."""


def search_random(ledger: Ledger, rng: np.random.Generator, _tolerance: float) -> bool:
    """The teacher, then distinct uniform assignments. Returns False: it never stops early."""
    ledger.ask(ledger.space.teacher())
    while ledger.remaining:
        ledger.ask(ledger.space.random(rng, ledger.remaining))
    return False


def search_nsga2(ledger: Ledger, rng: np.random.Generator, _tolerance: float) -> bool:
    """NSGA-II (Deb et al., 2002) as in pymoo, with uniform crossover and resetting mutation of the options.

    Duplicates are eliminated, and only evaluations that are new count against the budget. Returns False.
    """
    space = ledger.space
    size = max(2, min(POPULATION, ledger.budget // 4))
    population = np.concatenate([space.teacher(), space.random(rng, size - 1)])
    ledger.ask(population)
    algorithm = _nsga2(ledger, population, seed=int(rng.integers(2**31)))
    idle = 0
    while ledger.remaining:
        before = ledger.remaining
        offspring = algorithm.ask()
        rows = np.asarray(offspring.get("X"), dtype=np.int64).reshape(-1, space.sites)
        ledger.ask(rows)
        if not ledger.remaining:
            break
        costs = ledger.recall(rows)
        offspring.set("F", costs)
        offspring.set("G", ledger.violations(rows, costs))
        algorithm.tell(infills=offspring)
        idle = idle + 1 if ledger.remaining == before else 0
        if idle >= IDLE_GENERATIONS:
            ledger.ask(space.random(rng, 1))
    return False


def _nsga2(ledger: Ledger, population: IntArray, seed: int) -> Any:
    """pymoo's algorithm, set up to be asked and told; limits are its inequality constraints."""
    space, objectives, limits = ledger.space, ledger.costs.shape[1], len(ledger.constraints.limits)
    # pymoo takes a second to import, and only this method needs it.
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover

    class ResetMutation(Mutation):
        """Each site gets a random option with probability 1 / S."""

        def _do(self, problem: Any, X: Any, *_: Any, random_state: Any = None, **__: Any) -> Any:  # type: ignore[override]
            change = random_state.random(X.shape) < 1.0 / space.sites
            fresh = random_state.integers(0, space.cardinalities, size=X.shape)
            return np.where(change, fresh, X)

    problem = Problem(  # type: ignore[abstract, no-untyped-call]  # asked and told: it evaluates nothing
        n_var=space.sites,
        n_obj=objectives,
        n_ieq_constr=limits,
        xl=0,
        xu=np.asarray(space.cardinalities) - 1,
        vtype=int,
    )
    algorithm = NSGA2(  # type: ignore[no-untyped-call]
        pop_size=len(population),
        sampling=population,
        crossover=UniformCrossover(prob=0.9),  # type: ignore[no-untyped-call]
        mutation=ResetMutation(prob=1.0),
        eliminate_duplicates=True,
    )
    algorithm.setup(problem, termination=("n_gen", 10**9), seed=seed, verbose=False)
    return algorithm
