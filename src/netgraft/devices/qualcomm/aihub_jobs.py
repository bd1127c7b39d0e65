"""Jobs at Qualcomm AI Hub: many at a time, each network once, each answer kept as soon as it is there.

A network takes two jobs: one compiles it for the phone, one runs it there with an input of ours and profiles it. Both
are sent at once, the second waits for the first at the hub. Nothing here waits before :meth:`HubJobs.finish`.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from netgraft.devices.device import Array, Unsupported
from netgraft.devices.onnx.graph import INPUT
from netgraft.devices.parity import disagreement
from netgraft.devices.qualcomm.aihub_client import HubClient, RateLimited, Refusal
from netgraft.devices.qualcomm.aihub_profile import Profile, read_profile
from netgraft.devices.qualcomm.aihub_records import Record, Records, record_key
from netgraft.errors import DeviceError

log = logging.getLogger(__name__)

COMPILE_OPTIONS = "--target_runtime onnx"
"""ONNX Runtime with Qualcomm's plugin: what the NPU does not take runs on the phone's processor, and shows."""
PROFILE_OPTIONS = "--compute_unit npu"
MOST_AT_ONCE = 20
"""Networks that are at the hub at a time."""
ATTEMPTS = 2
"""How often a network is sent to a phone that fails to run it: phones fail for reasons of their own too."""
POLL_S = 10.0
PATIENCE_S = 2 * 3600.0
"""With nothing finished for so long, something is wrong."""
COMPILING, PROFILING = "compile", "profile"


@dataclass(slots=True, kw_only=True)
class Network:
    """A network on its way: what it is, and how far it is."""

    name: str
    content: bytes
    """Its ONNX file."""
    x: Array
    """(1, c, h, w), the input that it is run on."""
    reference: Array
    """(1, c, h, w), what torch gives for it."""
    precision: str
    record: Record
    jobs: dict[str, Any] = field(default_factory=dict)
    """The client's objects for the jobs in ``record``."""
    attempts: int = 0


class HubJobs:
    """The networks that are profiled on one phone."""

    def __init__(
        self,
        client: HubClient,
        phone: str,
        records: Records,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.phone = phone
        self.records = records
        self.now = now
        self._unfinished: dict[str, Network] = {}
        self._refused: dict[str, Unsupported] = {}
        self._told = False

    def ask(self, name: str, content: bytes, x: Array, reference: Array, precision: str) -> str:
        """Send a network, unless its answer is here or as many as may are on their way; gives the key of its record.

        Raises:
            DeviceError: see :class:`HubClient`.
        """
        key = record_key(
            content,
            x,
            phone=self.phone,
            options=f"{COMPILE_OPTIONS} / {PROFILE_OPTIONS}",
            qai_hub=self.client.version,
        )
        record = self.records.read(key)
        # Without the output the answer is of no use: it is asked for anew.
        kept = record.unsupported is not None or (record.over and self.records.read_output(key) is not None)
        if not kept and key not in self._unfinished and key not in self._refused:
            record.profile = None
            if not self._told:
                self._told = True
                log.warning(
                    "sending networks to Qualcomm AI Hub, for a %s; answers are kept in %s",
                    self.phone,
                    self.records.folder,
                )
            self._unfinished[key] = Network(
                name=name, content=content, x=x, reference=reference, precision=precision, record=record
            )
            self._send_waiting()
        return key

    def outcome(self, key: str) -> tuple[Profile, Array] | Unsupported:
        """The profile of a network that was asked for, and what the phone computed; waits for it.

        Raises:
            DeviceError: see :meth:`finish`.
        """
        self.finish([key])
        if key in self._refused:
            return self._refused[key]
        record = self.records.read(key)
        if record.unsupported is not None:
            return Unsupported(record.unsupported)
        y = self.records.read_output(key)
        if record.profile is None or y is None:
            raise DeviceError(f"{self.records.folder}: the record {key} has gone; the same command asks for it again")
        return read_profile(record.profile), y

    def finish(self, keys: Iterable[str]) -> None:
        """Wait for all of these.

        Raises:
            DeviceError: see :class:`HubClient`; or nothing came for :data:`PATIENCE_S`.
        """
        wanted, last = set(keys), self.now()
        while wanted & self._unfinished.keys():
            before = len(self._unfinished)
            self._send_waiting()
            for key, network in list(self._unfinished.items()):
                if network.jobs:
                    self._settle(key, network)
            if len(self._unfinished) < before:
                last = self.now()
                log.info("Qualcomm AI Hub: %d networks to come", len(self._unfinished))
            elif self.now() - last > PATIENCE_S:
                raise DeviceError(
                    f"Qualcomm AI Hub finished nothing in {PATIENCE_S / 3600:g} hours: see its page for what is wrong; "
                    "what is finished is kept, the same command continues"
                )
            else:
                self.client.sleep(POLL_S)

    def _send_waiting(self) -> None:
        """Send what waits, as far as it may."""
        for key, network in list(self._unfinished.items()):
            on_their_way = sum(bool(other.jobs) for other in self._unfinished.values())
            if PROFILING in network.jobs or (not network.jobs and on_their_way >= MOST_AT_ONCE):
                continue
            try:
                self._send(key, network)
            except RateLimited as limited:
                log.info("Qualcomm AI Hub takes no more for now: %s", limited)
                return
            except Refusal as refusal:
                self._refuse(key, refusal)

    def _send(self, key: str, network: Network) -> None:
        """Whatever jobs are missing; each is noted down as soon as it is accepted."""
        for kind, send in ((COMPILING, self._compile), (PROFILING, self._profile)):
            if kind not in network.jobs:
                network.jobs[kind] = self._known_job(network.record, kind) or send(network)
                network.record.jobs[kind] = network.jobs[kind].job_id
                self.records.write(key, network.record)

    def _known_job(self, record: Record, kind: str) -> Any:
        """The job that an earlier process sent, if the hub has it still."""
        number = record.jobs.get(kind)
        if number is None:
            return None
        try:
            return self.client.call(lambda client: client.get_job(number))
        except Refusal:
            return None

    def _compile(self, network: Network) -> Any:
        device = self.client.hub.Device(self.phone)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            path.write_bytes(network.content)
            return self.client.call(
                lambda client: client.submit_compile_job(
                    model=str(path), device=device, name=network.name, options=COMPILE_OPTIONS
                )
            )

    def _profile(self, network: Network) -> Any:
        device, inputs = self.client.hub.Device(self.phone), {INPUT: [network.x]}
        # The hub knows what the compilation will give before it is over: nothing waits here.
        model = self.client.call(lambda client: network.jobs[COMPILING].get_target_model())
        if model is None:
            raise Refusal(self._status(network, COMPILING).message or "it compiles to nothing")
        network.attempts += 1
        return self.client.call(
            lambda client: client.submit_inference_job(
                model=model,
                device=device,
                inputs=inputs,
                name=network.name,
                options=PROFILE_OPTIONS,
                retry=False,
                profile=True,
            )
        )

    def _settle(self, key: str, network: Network) -> None:
        """Keep the outcome of a network if there is one."""
        try:
            over = self._look(key, network)
        except RateLimited:
            return
        except Refusal as refusal:
            self._refuse(key, refusal)
            return
        if over:
            self.records.write(key, network.record)
            del self._unfinished[key]

    def _refuse(self, key: str, refusal: Refusal) -> None:
        """Give a network up, for this process: the reason may be the account's, and another day there is none."""
        self._refused[key] = Unsupported(f"Qualcomm AI Hub refuses it: {refusal}")
        del self._unfinished[key]

    def _look(self, key: str, network: Network) -> bool:
        """Ask how far the jobs are, and take what they gave; whether that is all."""
        record, compiling = network.record, self._status(network, COMPILING)
        if compiling.failure:
            record.unsupported = f"Qualcomm AI Hub cannot compile it: {compiling.message or 'no reason given'}"
        elif PROFILING in network.jobs:
            running = self._status(network, PROFILING)
            if running.success:
                self._take(key, network)
            elif running.failure and network.attempts < ATTEMPTS:
                for jobs in (network.jobs, record.jobs):
                    jobs.pop(PROFILING)
            elif running.failure:
                record.unsupported = f"the {self.phone} does not run it: {running.message or 'no reason given'}"
        return record.over

    def _take(self, key: str, network: Network) -> None:
        """Keep what the phone computed, and how long it took."""
        job = network.jobs[PROFILING]
        answer = self.client.call(lambda client: job.download_profile())
        outputs = self.client.call(lambda client: job.download_output_data())
        try:
            read_profile(answer)
            y = np.asarray(next(iter(outputs.values()))[0], np.float32)
        except DeviceError as error:
            raise Refusal(str(error)) from error
        except (StopIteration, AttributeError, IndexError, TypeError, ValueError) as error:
            raise Refusal("its answer has no output") from error
        network.record.unsupported = disagreement(y, network.reference, network.precision)
        if network.record.unsupported is None:
            self.records.write_output(key, y)
            network.record.profile = answer

    def _status(self, network: Network, kind: str) -> Any:
        return self.client.call(lambda client: network.jobs[kind].get_status())
