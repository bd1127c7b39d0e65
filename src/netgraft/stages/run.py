"""The last stages, which judge the files that ship: their scores on test images and their latency."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

from netgraft.data.images import ImagePair, whole_images
from netgraft.devices import Latency, Unsupported, drift_percent
from netgraft.errors import DeviceError
from netgraft.evaluate import Evaluation, evaluate
from netgraft.export import Export
from netgraft.restore import open_restorer
from netgraft.stages.latency import REFERENCE, Networks, latency_from, latency_row
from netgraft.stages.student import StudentStages

MOST_SHOWN = 12
"""Networks of the front that are measured whole."""


class Run(StudentStages):
    """One run: a config, a folder, and every stage's artifact as an attribute."""

    @cached_property
    def test_images(self) -> list[ImagePair]:
        """The images that are reported on, degraded and clean."""
        return whole_images(self.config.data, "test")

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """Scores on the test images of the degraded images, the exported teacher and the exported student."""
        key = self._search_key() | {
            "finetune": self.config.finetune.model_dump(),
            "assignment": self.assignment,
        }
        models = {"degraded": None, "teacher": self.exports["teacher"], "student": self.exports["student"]}
        with self._timed("evaluate"):
            scored = {}
            for number, (name, exported) in enumerate(models.items()):
                self.progress("evaluate", number, len(models))
                made_from = key if name == "student" else self.origin
                rows = self.store.json(f"evaluate/{name}", made_from, partial(self._evaluate, exported))
                scored[name] = Evaluation.from_rows(rows)
        return scored

    def _evaluate(self, exported: Export | None) -> list[dict[str, Any]]:
        """Scores of an exported network; None scores the degraded images as they are."""
        restorer = (lambda image: image) if exported is None else open_restorer(exported.fixed)
        return evaluate(restorer, self.test_images).as_rows()

    @cached_property
    def shown(self) -> list[int]:
        """Rows of the search whose networks are measured and shown: the whole front, or where it has more than
        :data:`MOST_SHOWN` members its named points and others spread evenly over its latencies."""
        front, latency_ms = self.search.front.tolist(), self.search.costs[:, 1]
        rows = list(dict.fromkeys(self.chosen.values()))
        while len(rows) < min(MOST_SHOWN, len(set(front) | set(rows))):
            gaps = {row: min(abs(latency_ms[row] - latency_ms[other]) for other in rows) for row in front}
            rows.append(max((row for row in front if row not in rows), key=lambda row: gaps[row]))
        return sorted(rows, key=lambda row: (latency_ms[row], row))

    @cached_property
    def final_latency(self) -> dict[str, Latency]:
        """Exported teacher and student, on the device."""
        return {name: self._final_session[name] for name in ("teacher", "student")}

    @cached_property
    def front_latency(self) -> dict[int, Latency]:
        """The networks that are shown, by row of the search, as they are before fine-tuning; a network that the
        device refuses is left out."""
        return {row: self._final_session[str(row)] for row in self.shown if str(row) in self._final_session}

    @cached_property
    def drift_percent(self) -> dict[str, float]:
        """How much slower the machine was in each timing session than in the middle one."""
        return drift_percent({**self.latency_table.reference_ms, "final": self._final_session[REFERENCE].median_ms})

    @cached_property
    def _final_session(self) -> dict[str, Latency]:
        """Everything whose measured latency is shown, whole and interleaved in one session."""
        shown = {str(row): self.name_row(self.search.assignments[row].tolist()) for row in self.shown}
        key = self._search_key() | {
            "finetune": self.config.finetune.model_dump(),
            "assignment": self.assignment,
            "shown": shown,
            "profile": self._profile_key(()),
            "samples": self.config.device.final_samples,
        }
        with self._timed("measure"):
            rows = self.store.json("measure/final", key, lambda: self._measure_final(shown))
        return {name: latency_from(row) for name, row in rows.items()}  # type: ignore[misc]

    def _measure_final(self, shown: dict[str, dict[str, str]]) -> dict[str, Any]:
        networks: Networks = {
            "teacher": (self.teacher.module, {}),
            "student": (self.finetuned[0], self.assignment),
            **{name: (self.student_of(assignment), assignment) for name, assignment in shown.items()},
        }
        # Where the device takes files, what is measured of teacher and student are the very ones that ship.
        files = {name: exported.fixed for name, exported in self.exports.items()}
        timed = self._time_whole(networks, self.config.device.final_samples, files)
        for name in ("teacher", "student"):
            entry = timed[name]
            if isinstance(entry, Unsupported):
                raise DeviceError(f"the device does not run the {name}: {entry.reason}")
        return {name: latency_row(entry) for name, entry in timed.items() if isinstance(entry, Latency)}
