"""What is delivered for a device, and how it fares there: its precision, its scores, and its latency whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from netgraft.assemble import Assignment
from netgraft.devices import FileDevice, Latency, Runnable, Unsupported, drift_percent
from netgraft.errors import DeviceError, ImageError
from netgraft.evaluate import Evaluation
from netgraft.export import Export
from netgraft.precision import SINGLE, Choice, Comparison, FormScore, choose, compare
from netgraft.stages.forms import Form, Forms, compared_on
from netgraft.stages.latency import REFERENCE, latency_from, latency_row
from netgraft.stages.unlocked import unlocked

SHIPPED = ("teacher", "student")
"""The networks that files are made of."""
MOST_SHOWN = 12
"""Networks of a front that are measured whole."""


class Delivery(Forms):
    """Teacher and student on one device, as they are delivered there."""

    @unlocked
    def reduced_evaluations(self) -> dict[str, Evaluation | str]:
        """Scores of teacher and student as the device computes them in fewer bits, through its runtime; or why there
        are none. Empty where the device has fp32 alone, or cannot be judged."""
        forms = self.forms.get(self.device_precision, {})
        found: dict[str, Evaluation | str] = {}
        with self.stages._timed("evaluate"):
            for name, form in forms.items():
                self.bench.progress(f"evaluate {self.device_precision}", len(found), len(forms))
                if not isinstance(form, Form):
                    found[name] = form.reason
                    continue
                key = self.form_key(name, self.device)
                rows = self.stages.store.json(
                    f"evaluate/{name}.{form.precision}", key, partial(self._evaluate_form, form)
                )
                found[name] = rows["refused"] if "refused" in rows else Evaluation.from_rows(rows["scores"])
        return found

    def _evaluate_form(self, form: Form) -> dict[str, Any]:
        try:
            with self.restorer(form) as restorer:
                return {"scores": self.stages.scores_of(restorer)}
        except ImageError as error:
            # Values that are not finite: the network does not work so.
            return {"refused": str(error)}

    @unlocked
    def compared(self) -> Comparison | str | None:
        """The student in the device's fewer bits against its own fp32 form; why it does not work so; None where
        there is nothing to compare."""
        for name, found in self.reduced_evaluations.items():
            if isinstance(found, str):
                return f"{name}: {found}"
        scores = self.reduced_evaluations.get("student")
        if not isinstance(scores, Evaluation):
            return None
        reduced = FormScore(evaluation=scores, latency=self.final_session["student"])
        return compare(reduced, self.stages.single_evaluations["student"], self.final_session.get(_single("student")))

    @unlocked
    def precision(self) -> Choice:
        """The precision that teacher and student are delivered in for the device, and why."""
        if self.compared is None:
            return Choice(form=SINGLE, reason="", as_asked=self.device_precision == SINGLE)
        # Mixed precisions will be further entries.
        candidates = {self.device_precision: self.compared}
        limit = self.stages.config.device.max_precision_loss_db
        single = all(_single(name) in self.final_session for name in SHIPPED)
        return choose(candidates, limit, single=single)

    @unlocked
    def evaluations(self) -> dict[str, Evaluation]:
        """Scores on the test images of the degraded images, and of teacher and student as they are delivered.

        Raises:
            DeviceError: one of them does not work as the device would compute it, and nothing else can be delivered.
        """
        scored = dict(self.stages.single_evaluations)
        if self.precision.form != SINGLE:
            for name in SHIPPED:
                scores = self.reduced_evaluations[name]
                if isinstance(scores, str):
                    raise DeviceError(self.bench.told(f"the device does not run the {name}: {scores}"))
                scored[name] = scores
        return scored

    def delivered(self, name: str) -> Form | Export:
        """The teacher or the student, by name, as it is delivered: the device's form, or the exported ONNX files."""
        form = self.forms.get(self.precision.form, {}).get(name)
        return form if isinstance(form, Form) else self.stages.exports[name]

    @property
    def number(self) -> int:
        """Which of the devices it is."""
        return self.stages.benches.index(self.bench)

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """The predicted latencies of all evaluations, (n,)."""
        return np.asarray(self.stages.latency_ms[:, self.number])

    @property
    def front(self) -> list[int]:
        """Rows of the search that no other beats in loss and predicted latency on this device."""
        return self.stages.front_on(self.number)

    @unlocked
    def shown(self) -> list[int]:
        """Rows of the search whose networks are measured and shown: the front on this device, and where there are
        others the joint one, as far as there is room."""
        named = list(dict.fromkeys(self.stages.chosen.values()))
        rows = _spread(named, self.front, self.latency_ms)
        if self.stages.several:
            rows |= _spread(named, self.stages.search.front.tolist(), self.stages.latency)
        return sorted(rows, key=lambda row: (self.latency_ms[row], row))

    @unlocked
    def final_latency(self) -> dict[str, Latency]:
        """Teacher and student on the device, as they are delivered."""
        if self.judged and self.precision.form == SINGLE:
            return {name: self.final_session[_single(name)] for name in SHIPPED}
        return {name: self.final_session[name] for name in SHIPPED}

    @unlocked
    def latencies(self) -> dict[str, dict[str, Latency]]:
        """Teacher and student on the device by precision and name, as far as it runs them, from one session."""
        return {
            precision: {name: self.final_session[at(name)] for name in SHIPPED if at(name) in self.final_session}
            for precision, at in ((self.device_precision, str), (SINGLE, _single))
            if any(at(name) in self.final_session for name in SHIPPED)
        }

    @unlocked
    def front_latency(self) -> dict[int, Latency]:
        """The networks that are shown, by row of the search, as they are before fine-tuning; a network that the
        device refuses is left out."""
        return {row: self.final_session[str(row)] for row in self.shown if str(row) in self.final_session}

    @unlocked
    def drift_percent(self) -> dict[str, float]:
        """How much slower the machine was in each timing session than in the middle one."""
        return drift_percent(
            {**self.bench.latency_table.reference_ms, "final": self.final_session[REFERENCE].median_ms}
        )

    @unlocked
    def final_session(self) -> dict[str, Latency]:
        """Everything whose measured latency is shown, whole and interleaved in one session."""
        shown = {str(row): self.stages.name_row(self.stages.search.assignments[row].tolist()) for row in self.shown}
        key = self.stages.search_key() | {
            "finetune": self.stages.config.finetune.model_dump(),
            "assignment": self.stages.assignment,
            "shown": shown,
            "profile": self.bench.profile_key(()),
            "samples": self.stages.config.device.final_samples,
        }
        if self.judged:
            key["forms"] = self.form_key("student", self.device)
        rows = self.stages.store.json("measure/final", key, lambda: self._measure_final(shown))
        return {name: latency_from(row) for name, row in rows.items()}  # type: ignore[misc]

    def _measure_final(self, shown: dict[str, dict[str, str]]) -> dict[str, Any]:
        networks: dict[str, tuple[nn.Module, Assignment]] = {
            "teacher": (self.stages.teacher.module, {}),
            "student": (self.stages.finetuned[0], self.stages.assignment),
            **{name: (self.stages.student_of(assignment), assignment) for name, assignment in shown.items()},
        }
        # Where the device takes files, what is measured of teacher and student are the very ones that ship.
        ready: dict[str, Callable[[], Runnable]] = {}
        if isinstance(self.device, FileDevice):
            ready = {name: partial(self.device.load, exported.fixed) for name, exported in self.stages.exports.items()}
        for name, form in self.forms.get(SINGLE, {}).items():
            if isinstance(form, Form):
                ready[_single(name)], networks[_single(name)] = form.open, networks[name]
        for name, form in self.forms.get(self.device_precision, {}).items():
            if isinstance(form, Form):
                ready[name] = form.open
            else:
                del networks[name]
        timed = self.bench.time_whole(networks, self.stages.config.device.final_samples, ready)
        for name in SHIPPED:
            entry = timed.get(name)
            if isinstance(entry, Unsupported):
                raise DeviceError(f"the device does not run the {name}: {entry.reason}")
        return {name: latency_row(entry) for name, entry in timed.items() if isinstance(entry, Latency)}

    @unlocked
    def parity(self) -> dict[str, Any]:
        """How far the student, as it is delivered and computed here, is from PyTorch on validation crops, or why it is
        refused; empty where the device takes no files: what it compiles is compared there and then."""
        delivered = self.delivered("student")
        if isinstance(delivered, Form):
            return {"difference_max_abs": delivered.difference_max_abs, "difference_rms": delivered.difference_rms}
        if not isinstance(self.device, FileDevice):
            return {}
        load, module = partial(self.device.load, delivered.fixed), self.stages.finetuned[0]
        key = self.stages.network_key("student") | {"device": self.device.description.as_dict()}
        compare = partial(compared_on, load, module, self.device_precision, self.checked_on)
        found: dict[str, Any] = self.stages.store.json("measure/parity", key, compare)
        return found


def _single(name: str) -> str:
    """What a network goes by in the last session, where it runs in single precision beside the device's own."""
    return f"{name} {SINGLE}"


def _spread(named: Sequence[int], front: Sequence[int], latency: NDArray[np.float64]) -> set[int]:
    """Rows: the whole front, or where it has more than :data:`MOST_SHOWN` members its named points and others spread
    evenly over its latencies."""
    rows = list(named)
    while len(rows) < min(MOST_SHOWN, len(set(front) | set(rows))):
        gaps = {row: min(abs(latency[row] - latency[other]) for other in rows) for row in front}
        rows.append(max((row for row in front if row not in rows), key=lambda row: gaps[row]))
    return set(rows)
