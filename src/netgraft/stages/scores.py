"""The files that ship for everybody, scored on the test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from netgraft.data.images import ImagePair, whole_images
from netgraft.evaluate import Evaluation, evaluate
from netgraft.export import Export
from netgraft.imaging import RgbImage
from netgraft.restore import open_restorer
from netgraft.stages.student import StudentStages


class ScoreStages(StudentStages):
    """From the exported files to their scores, which no device has a part in."""

    @cached_property
    def test_images(self) -> Sequence[ImagePair]:
        """The images that are reported on, degraded and clean."""
        return whole_images(self.config.data, "test")

    def scores_of(self, restorer: Callable[[RgbImage], RgbImage]) -> list[dict[str, Any]]:
        """The scores on the test images of whatever restores them, as they are stored.

        Raises:
            ImageError: what comes out is not finite.
        """
        return evaluate(restorer, self.test_images).as_rows()

    @cached_property
    def single_evaluations(self) -> dict[str, Evaluation]:
        """Scores on the test images of the degraded images, and of the exported fp32 teacher and student."""
        key = self.search_key() | {
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
        return self.scores_of((lambda image: image) if exported is None else open_restorer(exported.fixed))
