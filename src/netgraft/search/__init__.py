"""Searching the assignments of operators to sites for the best trade-offs, with few evaluations."""

from netgraft.search.constraints import Constraint, check_sums
from netgraft.search.minimize import METHODS, minimize
from netgraft.search.pareto import hypervolume, hypervolume_trace, knee, non_dominated
from netgraft.search.result import EvaluationError, InfeasibleError, SearchResult

__all__ = [
    "METHODS",
    "Constraint",
    "EvaluationError",
    "InfeasibleError",
    "SearchResult",
    "check_sums",
    "hypervolume",
    "hypervolume_trace",
    "knee",
    "minimize",
    "non_dominated",
]
