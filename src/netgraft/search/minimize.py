"""The search as one function: costs of few assignments in, the trade-off front out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from netgraft.names import lookup
from netgraft.search.additive import regime_of, search_additive, tau_history
from netgraft.search.baselines import search_nsga2, search_random
from netgraft.search.bayes import search_bayes
from netgraft.search.constraints import Constraint
from netgraft.search.hybrid import search_auto
from netgraft.search.known import Known
from netgraft.search.objective import Evaluate, Ledger, OnEvaluation
from netgraft.search.pareto import hypervolume_trace
from netgraft.search.result import EvaluationError, SearchResult
from netgraft.search.space import Space

log = logging.getLogger(__name__)

Method = Callable[[Ledger, np.random.Generator, float], bool]
"""Fills the ledger; returns whether it stopped because no gain above the tolerance was expected."""

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "auto": search_auto,
        "bayes": search_bayes,
        "additive": search_additive,
        "nsga2": search_nsga2,
        "random": search_random,
    }
)


def minimize(
    evaluate: Evaluate,
    options: Sequence[int],
    *,
    budget: int,
    method: str = "auto",
    reference_point: ArrayLike | None = None,
    seed: int = 0,
    known: Mapping[int, Known] | None = None,
    guess: Mapping[int, Sequence[ArrayLike]] | None = None,
    limits: Mapping[int, float] | None = None,
    constraints: Sequence[Constraint] = (),
    initial: tuple[ArrayLike, ArrayLike] | None = None,
    tolerance: float = 1e-5,
    on_evaluation: OnEvaluation | None = None,
) -> SearchResult:
    """Search the assignments of S sites for the front of M costs, with ``budget`` distinct evaluations.

    evaluate: (n, S) int64 option indices -> (n, M) costs, minimized. It is called with one row at a time, so
        that a failure loses no finished evaluation.
    options: S cardinalities; option 0 keeps the teacher's block. The teacher is always evaluated first. A
        budget of at least the size of the space enumerates it, in lexicographic order, and stops there.
    method: "auto" (an additive Gaussian process with its exact front; see ``hybrid``), "bayes" (plain
        qLogNEHVI), "additive" (single swaps and the additive model's front), "nsga2" or "random".
    reference_point: (M,) where hypervolume is measured from; by default, for each objective, the worst of the
        first evaluations (a quarter as many as there are single swaps, at least 8, at most half the budget)
        plus 10 % of their range. Pass one to compare runs.
    seed: the same seed, arguments and costs give the same evaluations in the same order.
    known: objectives that cost nothing, by index: S lists of one cost an option, which add up, or a function
        (n, S) -> (n,). The methods "auto" and "additive" use them exactly at any assignment. ``evaluate``
        still returns all M columns; those of known objectives are replaced, so they may be NaN.
    guess: rough costs of objectives that must be evaluated, by index: S lists of one cost an option, which about
        add up. With a guess for every objective that is not known, "auto" starts from the front that it implies,
        and in any case from its notion of which sites matter. A bad guess costs the first evaluations.
    limits: the most that an objective may cost, by index: a constraint. What exceeds it is not on the front
        and adds no hypervolume, and the search looks for what does not ("random" alone does not look).
    constraints: the same by name, also for quantities that are no objectives but known. Limits on known sums over
        sites are checked together before anything is evaluated.
    initial: (n, S) assignments and (n, M) costs of an earlier run. Where the search asks for one of them it
        is not evaluated again; with the same seed and arguments a run that was killed so continues as if it
        had not been, because it makes the same proposals.
    tolerance: "auto" stops when the expected gain of five proposals in a row is below this share of the
        hypervolume; 0 spends the whole budget.
    on_evaluation: called with (evaluations so far, assignment (S,), costs (M,)) after each new evaluation.

    Raises:
        ConfigError: there is no such method.
        SearchError: an argument is wrong, or no assignment can meet the limits on known sums; the message says which
            of them, and the nearest that can be met.
        EvaluationError: ``evaluate`` raised or returned nonsense; ``partial`` keeps the evaluations so far.
        InfeasibleError: the budget is spent and nothing was found that meets the limits; the same, with ``partial``.
    """
    fill = lookup("search method", method, METHODS)
    space = Space.of(options)
    ledger = Ledger(
        evaluate,
        space,
        budget,
        known=known,
        guess=guess,
        reference_point=reference_point,
        limits=[*_of_objectives(limits or {}), *constraints],
        initial=initial,
        on_evaluation=on_evaluation,
    )
    try:
        if ledger.budget >= space.size:
            ledger.ask(space.everything())
            stop = "space" if budget > space.size else "budget"
        else:
            stop = "tolerance" if fill(ledger, np.random.default_rng(seed), tolerance) else "budget"
        ledger.check_feasible()
    except EvaluationError as error:
        if len(ledger.costs):
            error.partial = _result(ledger, method, "error")
        raise
    result = _result(ledger, method, stop)
    log.info("%s: %d evaluations, regime %s, stopped by %s", method, len(result.costs), result.regime, stop)
    return result


def _of_objectives(limits: Mapping[int, float]) -> list[Constraint]:
    """Limits by index as constraints."""
    return [Constraint(name=f"limits[{index}]", of=int(index), limit=limit) for index, limit in limits.items()]


def _result(ledger: Ledger, method: str, stop_reason: str) -> SearchResult:
    """What the ledger holds."""
    history = tau_history(ledger.space, ledger.assignments, ledger.costs)
    reference = ledger.reference()
    return SearchResult(
        assignments=ledger.assignments,
        costs=ledger.costs,
        front=ledger.front(),
        hypervolume=hypervolume_trace(ledger.counted(), reference),
        reference_point=reference,
        method=method,
        additive_tau=history[-1],
        tau_history=history,
        regime=regime_of(history[-1]),
        stop_reason=stop_reason,
    )
