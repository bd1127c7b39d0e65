"""Real phones through Qualcomm AI Hub: networks are compiled, run and timed there, on the user's own account.

A network that is compiled is on its way at once, and many are side by side; what waits is the timing. The phone runs
each on the example that it was compiled for, some hundred times, and its output must agree with torch's. Answers are
kept on disk (:mod:`netgraft.devices.qualcomm.aihub_records`): nothing is sent twice, and a run that was killed goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from netgraft.devices.device import Array, Clock, DeviceDescription, Runnable, Unsupported
from netgraft.devices.fake import FakeClock
from netgraft.devices.int8_device import calibration_inputs
from netgraft.devices.measure import K, Latency, MeasureProtocol
from netgraft.devices.onnx.graph import onnx_bytes
from netgraft.devices.onnx.int8 import quantize_onnx
from netgraft.devices.parity import torch_output
from netgraft.devices.qualcomm.aihub_client import HubClient, lacking_token
from netgraft.devices.qualcomm.aihub_jobs import HubJobs
from netgraft.devices.qualcomm.aihub_profile import Profile
from netgraft.devices.qualcomm.aihub_records import Records, default_folder
from netgraft.devices.qualcomm.phones import PHONES
from netgraft.errors import DeviceError, ExportError

log = logging.getLogger(__name__)


class PhoneRunnable:
    """A network that a phone ran, or is going to run, on one input; it gives what came out there."""

    def __init__(self, jobs: HubJobs, key: str, x: Array, clock: FakeClock) -> None:
        self._jobs: HubJobs | None = jobs
        self._key = key
        self._x = x
        self._clock = clock

    def outcome(self) -> Profile | Unsupported:
        """How it went; waits for it."""
        found = self._found()
        return found if isinstance(found, Unsupported) else found[0]

    def run(self, x: Array) -> Array:
        if not np.array_equal(x, self._x):
            raise DeviceError("the phone runs this network on the input that it was compiled for, and no other")
        found = self._found()
        if isinstance(found, Unsupported):
            raise DeviceError(found.reason)
        profile, y = found
        self._clock.advance(profile.latency.median_ms)
        return y

    def close(self) -> None:
        self._jobs = None

    def _found(self) -> tuple[Profile, Array] | Unsupported:
        if self._jobs is None:
            raise DeviceError("this network was closed: compile it again")
        return self._jobs.outcome(self._key)


class AiHubDevice:
    """A phone at Qualcomm AI Hub, by a short name (``s24-ultra``) or by the hub's own (``Samsung Galaxy S24 Ultra``).

    precision: fp16, in which the NPU computes networks of single precision, or int8. client: a ``qai_hub.Client``;
    None for the user's own. folder: where answers are kept; None for the user's cache.

    Raises:
        DeviceError: the client is not installed, or there is no token.
    """

    def __init__(
        self, phone: str, precision: str = "fp16", client: HubClient | None = None, folder: Path | None = None
    ) -> None:
        if client is None:
            lack = lacking_token()
            if lack:
                raise DeviceError(lack)
            client = HubClient()
        self.phone = PHONES[phone].hub_name if phone in PHONES else phone
        self.precision = precision
        self.jobs = HubJobs(client, self.phone, Records(default_folder() if folder is None else folder))
        self._clock = FakeClock()

    @property
    def description(self) -> DeviceDescription:
        return DeviceDescription(
            backend="Qualcomm AI Hub",
            backend_version=self.jobs.client.version,
            hardware=self.phone,
            cores=1,
            precision=self.precision,
            threads=1,
            system="the phone's",
        )

    @property
    def place(self) -> str:
        """See :class:`PlacedDevice`."""
        return f"Qualcomm AI Hub, {self.phone}"

    @property
    def clock(self) -> Clock:
        return self._clock

    def compile(self, module: nn.Module, example: Tensor, calibration: Tensor | None = None) -> Runnable | Unsupported:
        """See :class:`Device`. Returns at once: what the hub or the phone thinks of it is heard when it is timed.

        Raises:
            DeviceError: the hub cannot be reached or does not accept the token, or the calibration inputs are none
                of this network's.
        """
        inputs = calibration_inputs(example, calibration)
        try:
            content = onnx_bytes(module, example, fast_forms=False)
            if self.precision == "int8":
                content = quantize_onnx(content, inputs.numpy())
        except ExportError as error:
            return Unsupported(str(error))
        name = f"netgraft {type(module).__name__} {'x'.join(map(str, example.shape))}"
        x = example.numpy()
        key = self.jobs.ask(name, content, x, torch_output(module, example), self.precision)
        return PhoneRunnable(self.jobs, key, x, self._clock)

    def announce(self, modules: Sequence[tuple[nn.Module, Tensor]]) -> None:
        """See :class:`QueueDevice`. What is compiled later and has the same file is the same network."""
        for module, example in modules:
            self.compile(module, example)

    def time(
        self, runnables: Mapping[K, Runnable], inputs: Mapping[K, Array], protocol: MeasureProtocol
    ) -> dict[K, Latency | Unsupported]:
        """See :class:`TimingDevice`. The phone decides how often it runs each; what falls back is told.

        Raises:
            DeviceError: the hub cannot be reached, does not accept the token, or does not answer.
        """
        timed: dict[K, Latency | Unsupported] = {}
        for name, runnable in runnables.items():
            outcome: Any = runnable.outcome() if isinstance(runnable, PhoneRunnable) else None
            assert outcome is not None, "a device times what it compiled"
            if isinstance(outcome, Profile):
                if outcome.fallbacks:
                    log.warning("%s on the %s: %s", name, self.phone, outcome)
                timed[name] = outcome.latency
            else:
                timed[name] = outcome
        return timed
