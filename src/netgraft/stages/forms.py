"""Teacher and student in the form in which the device takes them: the files that ship beside the fp32 exports."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.devices import (
    Device,
    FileDevice,
    FormDevice,
    MixedDevice,
    ReducedDevice,
    Runnable,
    disagreement,
    torch_output,
)
from netgraft.errors import DeviceError, ExportError
from netgraft.export import Export
from netgraft.nets.blocks import deploy
from netgraft.precision import SINGLE
from netgraft.restore import Restorer, open_restorer
from netgraft.stages.folder import digest_of_files
from netgraft.stages.latency import in_precisions
from netgraft.stages.scores import ScoreStages
from netgraft.stages.surrogates import CALIBRATION_SEED
from netgraft.stages.unlocked import unlocked
from netgraft.stages.whole import Bench

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A network in files of one precision, ready to be opened on its device."""

    precision: str
    """What the device computes it in."""
    files: tuple[Path, ...]
    """What ships; the first is the one that is opened."""
    difference_max_abs: float
    """Largest absolute difference to the network in PyTorch, in images in [0, 1], on validation crops."""
    difference_rms: float
    """Root mean square of the difference."""
    open: Callable[[], Runnable]
    """Makes it ready on the device.

    Raises:
        DeviceError: the device is out of order.
    """

    @property
    def size_bytes(self) -> int:
        """Of the files that the device opens; what was compiled from them is not among these."""
        return self.files[0].stat().st_size + sum(
            path.stat().st_size for path in self.files[1:] if path.suffix == ".bin"
        )


@dataclass(frozen=True, slots=True)
class NoForm:
    """The device cannot compute this network in this precision."""

    reason: str


class Forms:
    """From the networks to what a device runs of them, in its own precision and, to compare, in fp32."""

    def __init__(self, stages: ScoreStages, bench: Bench) -> None:
        self.stages = stages
        self.bench = bench

    @property
    def device(self) -> Device:
        """See :class:`Bench`."""
        return self.bench.device

    @property
    def device_precision(self) -> str:
        """What the device computes in."""
        return self.device.description.precision

    @property
    def judged(self) -> bool:
        """Whether the device computes in fewer bits, and lets whole networks be judged so."""
        return self.device_precision != SINGLE and isinstance(self.device, FormDevice | FileDevice)

    @unlocked
    def single(self) -> Device | None:
        """The device in single precision, where that is another one and it has that."""
        if not (self.judged and isinstance(self.device, ReducedDevice)):
            return None
        single = self.device.single
        return single if isinstance(single, FormDevice | FileDevice) else None

    @unlocked
    def forms(self) -> dict[str, dict[str, Form | NoForm]]:
        """By precision and network: what the device runs, in :data:`SINGLE` as well if it runs that. Empty where it
        computes in fp32 alone, or cannot be judged: then the exported ONNX files are all that there is.

        Raises:
            DeviceError: it does not run them in any precision.
        """
        if not self.judged:
            return {}
        devices = {self.device_precision: self.device} | ({SINGLE: self.single} if self.single is not None else {})
        modules = {"teacher": self.stages.teacher.module, "student": self.stages.finetuned[0]}
        found: dict[str, dict[str, Form | NoForm]] = {}
        # The fp32 files come first: they are what some devices open.
        exports = self.stages.exports
        with self.stages._timed("export"):
            for precision, device in devices.items():
                found[precision] = {}
                for name, module in modules.items():
                    self.bench.progress(f"export {precision}", len(found[precision]), len(modules))
                    found[precision][name] = self._form(name, module, precision, device, exports[name].fixed)
        refused = {precision: _refusals(forms) for precision, forms in found.items()}
        if refused.get(SINGLE):
            log.warning("no comparison with %s on the device: %s", SINGLE, refused[SINGLE])
            del found[SINGLE]
        if refused[self.device_precision] and SINGLE not in found:
            raise DeviceError(
                self.bench.told(f"the device does not run the networks: {refused[self.device_precision]}")
            )
        return found

    def _form(self, name: str, module: nn.Module, precision: str, device: Device, fixed: Path) -> Form | NoForm:
        """One network in one precision; its files are made anew where they are not those that were checked."""
        folder, key = fixed.parent, self.form_key(name, device)

        def make() -> dict[str, Any]:
            paths = [fixed]
            try:
                content = self._content(name, module, device)
                if content:
                    paths = [folder / f"{name}{self.bench.tag}.{ending}" for ending in content]
                    for path, data in zip(paths, content.values(), strict=True):
                        self.stages.store.write(path, data)
                found = compared_on(partial(_open, device, paths[0]), module, precision, self.checked_on)
            except ExportError as error:
                found = {"refused": str(error)}
            except BaseException:
                _remove(paths, fixed)
                raise
            if "refused" in found:
                # What lost the signal must not be taken for a network that works.
                _remove(paths, fixed)
                return {**found, "files": [], "content": digest_of_files()}
            return {**found, "files": [path.name for path in paths], "content": digest_of_files(*paths)}

        stored = self.stages.with_files(
            f"export/{name}.{precision}", key, make, lambda row: _paths(folder, row["files"])
        )
        if "refused" in stored:
            return NoForm(stored["refused"])
        files = _paths(folder, stored["files"])
        return Form(
            precision=precision,
            files=files,
            difference_max_abs=stored["difference_max_abs"],
            difference_rms=stored["difference_rms"],
            open=partial(_open, device, files[0]),
        )

    def _content(self, name: str, module: nn.Module, device: Device) -> Mapping[str, bytes]:
        """The files of a network for a device, by ending; none where the device opens the exported ones."""
        deployed, images = deploy(module), self.stages.quantization_crops
        if isinstance(device, MixedDevice):
            assert self.bench.parts is not None, "the device takes ONNX graphs"
            single, paths = in_precisions(self.stages.assignment if name == "student" else {})
            content = device.mixed(self.bench.parts.network(deployed, single), paths, images)
            return {f"{device.precision}.{ending}": data for ending, data in device.own_files(content).items()}
        return device.form(deployed, images[:1], images) if isinstance(device, FormDevice) else {}

    def form_key(self, name: str, device: Device) -> dict[str, Any]:
        """What a form depends on; those of another student or device in the same folder are told apart by it."""
        return self.stages.network_key(name) | {
            "device": device.description.as_dict(),
            "calibration": [self.stages.config.device.calibration, CALIBRATION_SEED, "stretched"],
        }

    @property
    def checked_on(self) -> Sequence[Tensor]:
        return torch.split(self.stages.validation[0], 1)[:3]

    @contextmanager
    def restorer(self, form: Form | Export) -> Iterator[Restorer]:
        """While open, what restores images with a network: in tiles of the profiled size, through the device's
        runtime, or the exported ONNX file through ONNX Runtime."""
        if isinstance(form, Export):
            yield open_restorer(form.fixed)
            return
        runnable = form.open()
        try:
            yield Restorer(run=partial(_run, runnable), fixed=self.stages.config.size)
        finally:
            runnable.close()


def _refusals(forms: Mapping[str, Form | NoForm]) -> str:
    """What is wrong with those that the device refuses, by name; empty if it takes all."""
    return "; ".join(f"{name}: {form.reason}" for name, form in forms.items() if isinstance(form, NoForm))


def _open(device: Device, path: Path) -> Runnable:
    if isinstance(device, FormDevice):
        return device.load_form(path)
    assert isinstance(device, FileDevice), "others have no forms"
    return device.load(path)


def _run(runnable: Runnable, x: Tensor) -> Tensor:
    # A copy: what comes from elsewhere may be read-only memory.
    return torch.tensor(runnable.run(x.contiguous().numpy()))


def _paths(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    return tuple(folder / name for name in names)


def _remove(paths: Sequence[Path], kept: Path) -> None:
    for path in paths:
        if path != kept:
            with suppress(OSError):
                path.unlink()


def compared_on(
    open_network: Callable[[], Runnable], module: nn.Module, precision: str, examples: Sequence[Tensor]
) -> dict[str, Any]:
    """How far the opened network is from ``module`` on images (1, 3, h, w), or why it is refused."""
    try:
        runnable = open_network()
    except DeviceError as error:
        return {"refused": str(error)}
    largest, squares = [], []
    try:
        for image in examples:
            reference, restored = torch_output(module, image), runnable.run(image.contiguous().numpy())
            reason = disagreement(restored, reference, precision)
            if reason is not None:
                return {"refused": reason}
            largest.append(float(np.abs(restored - reference).max()))
            squares.append(float(np.square(restored - reference, dtype=np.float64).mean()))
    except DeviceError as error:
        return {"refused": str(error)}
    finally:
        runnable.close()
    return {"difference_max_abs": max(largest), "difference_rms": float(np.sqrt(np.mean(squares)))}
