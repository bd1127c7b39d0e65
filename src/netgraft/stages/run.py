"""The last stages, which judge the files that ship: their scores on test images and their latency."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

from netgraft.data.images import ImagePair, whole_images
from netgraft.devices import FileDevice, Latency, measure
from netgraft.evaluate import Evaluation, evaluate
from netgraft.export import Export
from netgraft.restore import open_restorer
from netgraft.stages.latency import latency_from, latency_row
from netgraft.stages.student import StudentStages


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
    def final_latency(self) -> dict[str, Latency]:
        """Exported teacher and student on the device, whole and interleaved in one session."""
        key = self._search_key() | {
            "finetune": self.config.finetune.model_dump(),
            "assignment": self.assignment,
            "profile": self._profile_key(()),
            "samples": self.config.device.final_samples,
        }
        with self._timed("measure"):
            self.progress("measure", 0, 1)
            rows = self.store.json("measure/final", key, self._measure_final)
        return {name: latency_from(row) for name, row in rows.items()}  # type: ignore[misc]

    def _measure_final(self) -> dict[str, Any]:
        samples = self.config.device.final_samples
        if not isinstance(self.device, FileDevice):
            networks = {"teacher": self.teacher.module, "student": self.finetuned[0]}
            return self._measure_whole(networks, samples)
        # The very files that ship.
        running = {name: self.device.load(exported.fixed) for name, exported in self.exports.items()}
        inputs = dict.fromkeys(running, self._example().contiguous().numpy())
        try:
            timed = measure(running, inputs, self._protocol(samples), self.device.clock)
        finally:
            for runnable in running.values():
                runnable.close()
        return {name: latency_row(latency) for name, latency in timed.items()}
