"""The front of quality against latency, by evaluations that are kept one by one, and the choice from it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netgraft.errors import StoreError
from netgraft.search import EvaluationError, InfeasibleError, SearchResult, knee, minimize, non_dominated
from netgraft.search.constraints import Constraints
from netgraft.search.space import Space as Choices
from netgraft.sites import KEEP
from netgraft.stages.joint import LATENCY, LOSS
from netgraft.stages.judge import CAPPED_LOSSES, JudgeStages
from netgraft.store import digest


class SearchStages(JudgeStages):
    """Searches the space, and chooses the assignment that becomes the student."""

    @cached_property
    def search(self) -> SearchResult:
        """The search by the configured method."""
        with self._timed("search"):
            return self.search_with(self.config.search.method)

    @cached_property
    def baselines(self) -> dict[str, SearchResult]:
        """The same search by other methods, for comparison."""
        with self._timed("baselines"):
            found = {method: self._baseline(method) for method in self.config.search.baselines}
        # Nothing is searched any more: what was kept for it makes room.
        vars(self).pop("scores", None)
        return found

    def _baseline(self, method: str) -> SearchResult:
        """The search by a method that may fail to meet the limits: that, too, compares."""
        try:
            return self.search_with(method)
        except InfeasibleError as error:
            if error.partial is None:
                raise
            return error.partial

    def search_with(self, method: str) -> SearchResult:
        """The search by one method; every evaluation is kept as soon as it is known.

        Raises:
            SearchError: the limits cannot be met, or were not; the message says which.
        """
        options = self.options
        problem: dict[str, Any] = {
            "options": [len(names) for names in options.values()],
            "budget": self.config.search.budget,
            "method": method,
            "reference_point": (self.reference_db, *self.latency_reference),
            "seed": self.config.seed,
        }
        if self.foresees(method):
            foreseen = self.foreseen_db
            problem["guess"] = {
                LOSS: [[foreseen.get((path, name), 0.0) for name in names] for path, names in options.items()]
            }
        # The proposals take longer than everything else that a finished run does again.
        key = {"schema": _RESULT_FIELDS, "evaluations": self.search_key(), "capped": CAPPED_LOSSES}
        key |= {
            "names": options,
            **self.latency_document(),
            "problem": problem,
            # A function is known by the tables that it is made from.
            "limits": {limit.name: (limit.limit, None if callable(limit.of) else limit.of) for limit in self.limits},
        }
        return _result_from(self.store.json(f"search/{method}", key, lambda: self._search_anew(problem)))

    def _search_anew(self, problem: dict[str, Any]) -> dict[str, Any]:
        log = _EvaluationLog(self.store.path("search/evaluations", self.search_key(), ".jsonl"))

        def costs(rows: NDArray[np.int64]) -> NDArray[np.float64]:
            losses = [min(self._quality_loss_db(row, log), self.cap_db) for row in rows.tolist()]
            return np.array([[loss, *(np.nan for _ in known)] for loss in losses])

        def report(done: int, *_: object) -> None:
            self.progress(f"search {problem['method']}", done, problem["budget"])

        known = self.latency_objectives
        try:
            found = minimize(costs, **problem, known=known, constraints=self.limits, on_evaluation=report)
        except EvaluationError as error:
            # The objective is ours: what stopped it, a full disk say, is what the user must hear of.
            raise error.__cause__ or error from None
        return _result_row(found)

    def search_key(self) -> dict[str, Any]:
        return {
            "origin": self.origin,
            "distill": self.config.distill.model_dump(),
            "crops": self.config.search.crops,
            "calibration": self.config.search.calibration,
        }

    def _quality_loss_db(self, row: list[int], log: _EvaluationLog) -> float:
        changed = {path: name for path, name in self.name_row(row).items() if name != KEEP}
        name = digest(changed)
        if name not in log:
            log.add(name, self.teacher_validation_db - self.scores.psnr_db(changed))
        return log[name]

    @cached_property
    def latency_ms(self) -> NDArray[np.float64]:
        """The predicted latencies, (n, D), of all evaluations on each device."""
        return self.predicted_ms(self.search.assignments) if self.by_slowest else self.search.costs[:, LATENCY:]

    @cached_property
    def latency(self) -> NDArray[np.float64]:
        """The one number, (n,), that ranks evaluations by latency: in ms on one device, of several the slowest's as a
        share of the teacher's."""
        return self.slowest(self.latency_ms) if self.several else self.search.costs[:, LATENCY]

    def front_on(self, device: int) -> list[int]:
        """Rows of the search that meet the limits and that no other beats in loss and latency on a device, by loss."""
        if not self.several:
            return [int(row) for row in self.search.front]
        costs = np.stack([self.search.costs[:, LOSS], self.latency_ms[:, device]], axis=1)
        limits = Constraints(Choices.of([len(names) for names in self.options.values()]), self.limits, {})
        met = limits.values(self.search.assignments, self.search.costs) <= limits.bounds
        rows = np.flatnonzero(met.all(axis=1))
        rows = rows[non_dominated(costs[rows])]
        return [int(row) for row in rows[np.argsort(costs[rows, LOSS], kind="stable")]]

    @cached_property
    def chosen(self) -> dict[str, int]:
        """Rows of the search: the ``knee``, the ``fastest`` of the front, and the one that becomes the student."""
        costs, front, latency = self.search.costs, self.search.front, self.latency
        within = front[costs[front, LOSS] <= self.config.search.max_loss_db]
        # The teacher loses nothing; but where it exceeds a limit, the least loss may be more than is allowed.
        within = within if len(within) else front[:1]
        points = {
            "knee": int(front[knee(costs[front])]),
            "fastest": int(front[np.argmin(latency[front])]),
            "fastest_within": int(within[np.argmin(latency[within])]),
        }
        return points | {"chosen": points[self.config.search.choose]}

    @property
    def choice_warning(self) -> str | None:
        """What is wrong with the choice, where the limits leave nothing that loses as little as was asked for."""
        allowed, chosen = self.config.search.max_loss_db, self.chosen["chosen"]
        lost = float(self.search.costs[chosen, LOSS])
        if self.config.search.choose != "fastest_within" or lost <= allowed:
            return None
        limits = " and ".join(map(str, self.limits))
        return (
            f"Nothing that was found meets {limits} and loses at most max_loss_db = {allowed:g}: "
            f"the student is the one that loses least within these limits, {lost:.3f} dB before fine-tuning."
        )

    @cached_property
    def assignment(self) -> dict[str, str]:
        """The student's operator at every site that may change."""
        return self.name_row(self.search.assignments[self.chosen["chosen"]].tolist())


_RESULT_FIELDS = [field.name for field in fields(SearchResult)]


def _result_row(result: SearchResult) -> dict[str, Any]:
    """A search's result as it is stored: arrays as lists, with their type."""
    return {
        name: {"dtype": str(value.dtype), "values": value.tolist()} if isinstance(value, np.ndarray) else value
        for name, value in asdict(result).items()
    }


def _result_from(row: dict[str, Any]) -> SearchResult:
    """What :func:`_result_row` stored."""
    values: dict[str, Any] = {
        name: np.array(value["values"], value["dtype"]) if isinstance(value, dict) and "dtype" in value else value
        for name, value in row.items()
    }
    return SearchResult(**values)


class _EvaluationLog:
    """Evaluations as lines of JSON, appended one by one; a line cut short by a kill is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, float] = {}
        if path.exists():
            for line in path.read_text(errors="replace").splitlines():
                try:
                    row = json.loads(line)
                    self.known[row["assignment"]] = row["quality_loss_db"]
                except (ValueError, KeyError, TypeError):
                    continue

    def __contains__(self, name: str) -> bool:
        return name in self.known

    def __getitem__(self, name: str) -> float:
        return self.known[name]

    def add(self, name: str, quality_loss_db: float) -> None:
        row = json.dumps({"assignment": name, "quality_loss_db": quality_loss_db})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                # Starting on a new line keeps a torn line from swallowing this one.
                file.write("\n" + row)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written: {error.strerror}; what was done before is kept"
            ) from error
        self.known[name] = quality_loss_db
