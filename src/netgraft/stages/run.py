"""The last stages, which judge the files that ship: their scores on test images and their latency."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from torch import nn

from netgraft.assemble import Assignment
from netgraft.data.images import ImagePair, whole_images
from netgraft.devices import FileDevice, Latency, Runnable, Unsupported, drift_percent
from netgraft.errors import DeviceError, ImageError
from netgraft.evaluate import Evaluation, evaluate
from netgraft.export import Export
from netgraft.precision import SINGLE, Choice, Comparison, FormScore, choose, compare
from netgraft.restore import open_restorer
from netgraft.stages.forms import Form, FormStages
from netgraft.stages.latency import REFERENCE, latency_from, latency_row

SHIPPED = ("teacher", "student")
"""The networks that files are made of."""
MOST_SHOWN = 12
"""Networks of the front that are measured whole."""


class Run(FormStages):
    """One run: a config, a folder, and every stage's artifact as an attribute."""

    @cached_property
    def test_images(self) -> list[ImagePair]:
        """The images that are reported on, degraded and clean."""
        return whole_images(self.config.data, "test")

    @cached_property
    def single_evaluations(self) -> dict[str, Evaluation]:
        """Scores on the test images of the degraded images, and of the exported fp32 teacher and student."""
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

    @cached_property
    def reduced_evaluations(self) -> dict[str, Evaluation | str]:
        """Scores of teacher and student as the device computes them in fewer bits, through its runtime; or why there
        are none. Empty where the device has fp32 alone, or cannot be judged."""
        forms = self.forms.get(self.device_precision, {})
        found: dict[str, Evaluation | str] = {}
        with self._timed("evaluate"):
            for name, form in forms.items():
                self.progress(f"evaluate {self.device_precision}", len(found), len(forms))
                if not isinstance(form, Form):
                    found[name] = form.reason
                    continue
                key = self._form_key(name, self.device)
                rows = self.store.json(f"evaluate/{name}.{form.precision}", key, partial(self._evaluate_form, form))
                found[name] = rows["refused"] if "refused" in rows else Evaluation.from_rows(rows["scores"])
        return found

    def _evaluate_form(self, form: Form) -> dict[str, Any]:
        try:
            with self.restorer(form) as restorer:
                return {"scores": evaluate(restorer, self.test_images).as_rows()}
        except ImageError as error:
            # Values that are not finite: the network does not work so.
            return {"refused": str(error)}

    @cached_property
    def compared(self) -> Comparison | str | None:
        """The student in the device's fewer bits against its own fp32 form; why it does not work so; None where
        there is nothing to compare."""
        for name, found in self.reduced_evaluations.items():
            if isinstance(found, str):
                return f"{name}: {found}"
        scores = self.reduced_evaluations.get("student")
        if not isinstance(scores, Evaluation):
            return None
        reduced = FormScore(evaluation=scores, latency=self._final_session["student"])
        return compare(reduced, self.single_evaluations["student"], self._final_session.get(_single("student")))

    @cached_property
    def precision(self) -> Choice:
        """The precision that teacher and student are delivered in for the device, and why."""
        if self.compared is None:
            return Choice(form=SINGLE, reason="", as_asked=self.device_precision == SINGLE)
        # Mixed precisions will be further entries.
        candidates = {self.device_precision: self.compared}
        limit = self.config.device.max_precision_loss_db
        single = all(_single(name) in self._final_session for name in SHIPPED)
        return choose(candidates, limit, single=single)

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """Scores on the test images of the degraded images, and of teacher and student as they are delivered.

        Raises:
            DeviceError: one of them does not work as the device would compute it, and nothing else can be delivered.
        """
        scored = dict(self.single_evaluations)
        if self.precision.form != SINGLE:
            for name in SHIPPED:
                scores = self.reduced_evaluations[name]
                if isinstance(scores, str):
                    raise DeviceError(f"the device does not run the {name}: {scores}")
                scored[name] = scores
        return scored

    def delivered(self, name: str) -> Form | Export:
        """The teacher or the student, by name, as it is delivered: the device's form, or the exported ONNX files."""
        form = self.forms.get(self.precision.form, {}).get(name)
        return form if isinstance(form, Form) else self.exports[name]

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
        """Teacher and student on the device, as they are delivered."""
        if self.judged and self.precision.form == SINGLE:
            return {name: self._final_session[_single(name)] for name in SHIPPED}
        return {name: self._final_session[name] for name in SHIPPED}

    @cached_property
    def latencies(self) -> dict[str, dict[str, Latency]]:
        """Teacher and student on the device by precision and name, as far as it runs them, from one session."""
        return {
            precision: {name: self._final_session[at(name)] for name in SHIPPED if at(name) in self._final_session}
            for precision, at in ((self.device_precision, str), (SINGLE, _single))
            if any(at(name) in self._final_session for name in SHIPPED)
        }

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
        if self.judged:
            key["forms"] = self._form_key("student", self.device)
        with self._timed("measure"):
            rows = self.store.json("measure/final", key, lambda: self._measure_final(shown))
        return {name: latency_from(row) for name, row in rows.items()}  # type: ignore[misc]

    def _measure_final(self, shown: dict[str, dict[str, str]]) -> dict[str, Any]:
        networks: dict[str, tuple[nn.Module, Assignment]] = {
            "teacher": (self.teacher.module, {}),
            "student": (self.finetuned[0], self.assignment),
            **{name: (self.student_of(assignment), assignment) for name, assignment in shown.items()},
        }
        # Where the device takes files, what is measured of teacher and student are the very ones that ship.
        ready: dict[str, Callable[[], Runnable]] = {}
        if isinstance(self.device, FileDevice):
            ready = {name: partial(self.device.load, exported.fixed) for name, exported in self.exports.items()}
        for name, form in self.forms.get(SINGLE, {}).items():
            if isinstance(form, Form):
                ready[_single(name)], networks[_single(name)] = form.open, networks[name]
        for name, form in self.forms.get(self.device_precision, {}).items():
            if isinstance(form, Form):
                ready[name] = form.open
            else:
                del networks[name]
        timed = self._time_whole(networks, self.config.device.final_samples, ready)
        for name in SHIPPED:
            entry = timed.get(name)
            if isinstance(entry, Unsupported):
                raise DeviceError(f"the device does not run the {name}: {entry.reason}")
        return {name: latency_row(entry) for name, entry in timed.items() if isinstance(entry, Latency)}


def _single(name: str) -> str:
    """What a network goes by in the last session, where it runs in single precision beside the device's own."""
    return f"{name} {SINGLE}"
