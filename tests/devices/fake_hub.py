"""A stand-in for ``qai_hub.Client``: it takes what the real one takes and answers with what that documents.

Every call is held against the real client's signature, so that a call that the real one would refuse fails here too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import qai_hub

STATE = qai_hub.JobStatus.State

PROFILE: dict[str, Any] = {
    "execution_summary": {
        "estimated_inference_time": 900,
        "estimated_inference_peak_memory": 166711296,
        "first_load_time": 1374293,
        "first_load_peak_memory": 166711296,
        "warm_load_time": 277823,
        "warm_load_peak_memory": 163520512,
        "compile_time": 0,
        "compile_peak_memory": 0,
        "inference_memory_increase_range": (0, 2658496),
        "inference_memory_peak_range": (2654208, 39406752),
        "all_compile_times": [1],
        "all_first_load_times": [1374293],
        "all_inference_times": [4000, 900, 1100, 1000, 1300],
        "all_warm_load_times": [277823],
    },
    "execution_detail": [
        {"compute_unit": "NPU", "execution_cycles": 180315, "execution_time": 127, "name": "conv", "type": "Conv"},
        {"compute_unit": "NPU", "execution_cycles": 90315, "execution_time": 64, "name": "mul", "type": "Mul"},
    ],
}
"""An answer as the client's own tests record it, in microseconds and bytes."""


@dataclass
class FakeJob:
    """A job that is over after it was asked for its status ``polls`` times."""

    job_id: str
    hub: FakeHub
    network: bytes
    failure: str | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    asked: int = 0

    def get_status(self) -> qai_hub.JobStatus:
        self.hub.note("get_status", self.job_id)
        self.asked += 1
        if self.asked <= self.hub.polls:
            return qai_hub.JobStatus(STATE.OPTIMIZING_MODEL)
        return qai_hub.JobStatus(STATE.FAILED if self.failure else STATE.SUCCESS, self.failure)

    def get_target_model(self) -> bytes:
        return self.network

    def download_profile(self) -> Any:
        self.hub.note("download_profile", self.job_id)
        return self.hub.profile

    def download_output_data(self) -> Any:
        if self.hub.outputs is not None:
            return self.hub.outputs(self.inputs)
        session = onnxruntime.InferenceSession(self.network)
        return {"output_0": [session.run(None, {name: values[0] for name, values in self.inputs.items()})[0]]}


class FakeHub:
    """The client. Attributes set what it does; ``calls`` is what was asked of it, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.jobs: dict[str, FakeJob] = {}
        self.polls = 1
        self.profile: Any = PROFILE
        self.outputs: Any = None
        """From a job's inputs to what it gives; None computes it."""
        self.compile_failures: Iterator[str | None] = iter(())
        """A reason, or None for success, for one compile job after the other; then all succeed."""
        self.run_failures: Iterator[str | None] = iter(())
        self.errors: dict[str, Iterator[Exception | None]] = {}
        """What a method raises, call by call."""
        self._numbers = count(1)

    def note(self, what: str, about: str = "") -> None:
        self.calls.append((what, about))
        error = next(self.errors.get(what, iter(())), None)
        if error is not None:
            raise error

    def count(self, what: str) -> int:
        return sum(call == what for call, _ in self.calls)

    def submit_compile_job(self, *args: Any, **options: Any) -> FakeJob:
        given = _bound("submit_compile_job", args, options)
        assert given["options"] == "--target_runtime onnx"
        self.note("submit_compile_job", given["device"].name)
        failure = next(self.compile_failures, None)
        return self._job("c", Path(given["model"]).read_bytes(), failure)

    def submit_inference_job(self, *args: Any, **options: Any) -> FakeJob:
        given = _bound("submit_inference_job", args, options)
        assert given["profile"]
        assert {name: [value.dtype for value in values] for name, values in given["inputs"].items()} == {
            "x": [np.dtype(np.float32)]
        }
        self.note("submit_inference_job", given["device"].name)
        job = self._job("p", given["model"], next(self.run_failures, None))
        job.inputs = given["inputs"]
        return job

    def get_job(self, *args: Any, **options: Any) -> FakeJob:
        number = _bound("get_job", args, options)["job_id"]
        self.note("get_job", number)
        if number not in self.jobs:
            raise qai_hub.UserError(f"job ID '{number}' could not be found.")
        return self.jobs[number]

    def _job(self, kind: str, network: bytes, failure: str | None) -> FakeJob:
        job = FakeJob(f"j{kind}{next(self._numbers)}", self, network, failure)
        self.jobs[job.job_id] = job
        return job


def _bound(method: str, args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name, as the real client's method takes them.

    The overloads of a method share its name; what is left in the class is the method itself.
    """
    bound = inspect.signature(getattr(qai_hub.Client, method)).bind(None, *args, **options)
    bound.apply_defaults()
    return dict(bound.arguments)
