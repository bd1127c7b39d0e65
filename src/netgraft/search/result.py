"""What a search returns, and what it raises when the objective fails."""

from __future__ import annotations

from dataclasses import dataclass

from netgraft.errors import SearchError
from netgraft.search.space import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Everything that a search evaluated, in order, and the front among it."""

    assignments: IntArray
    """(n, S) option indices, all distinct; row 0 is the teacher."""
    costs: FloatArray
    """(n, M), minimized."""
    front: IntArray
    """(k,) rows that satisfy the limits and that no other such row dominates, by their first cost."""
    hypervolume: FloatArray
    """(n,) hypervolume after each evaluation, with respect to ``reference_point``."""
    reference_point: FloatArray
    """(M,) as given or derived, lowered to the limits."""
    method: str
    """The method's name."""
    additive_tau: FloatArray
    """(M,) Kendall's tau-b between what an additive model predicted before each evaluation and the truth, over the
    later half of the evaluations; NaN where undefined. Low values mean interactions, or too few evaluations to
    determine the additive model."""
    tau_history: FloatArray
    """(n, M) the same after each evaluation."""
    regime: str
    """What the smallest tau says: "additive" (at least .9), "mild" (at least .7), "strong" or "unknown"."""
    stop_reason: str
    """"budget", "space" (every assignment was evaluated), "tolerance" (no gain expected), "error"."""

    @property
    def stopped_early(self) -> bool:
        """Whether the search ended before its budget was spent."""
        return self.stop_reason != "budget"


class EvaluationError(SearchError):
    """The objective raised or returned nonsense; ``partial`` keeps what was evaluated before."""

    partial: SearchResult | None = None
    """The search so far; None when no evaluation succeeded."""


class InfeasibleError(EvaluationError):
    """No evaluated assignment meets the limits; ``partial`` holds all of them, its front is empty."""
