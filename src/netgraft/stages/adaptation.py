"""A student for other images, over a folder of its own: tuned, exported, scored and timed beside what it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import netgraft.export
from netgraft.adapt import Adaptation, AdaptConfig, Look
from netgraft.config import stored_config
from netgraft.data.crops import CropStage, PairedSource, SyntheticSource, crop_batches
from netgraft.data.images import ImagePair, crops_of, fingerprint, train_source, whole_images
from netgraft.devices import (
    Device,
    FileDevice,
    Latency,
    MeasureProtocol,
    OnnxParts,
    Runnable,
    Unsupported,
    measure_modules,
    open_device,
    timed_kind,
)
from netgraft.errors import ConfigError
from netgraft.evaluate import Evaluation, evaluate
from netgraft.export import Export
from netgraft.imaging import RgbImage
from netgraft.nets.checkpoint import save_weights, weights_digest
from netgraft.nets.designs import Design
from netgraft.nets.load import Teacher, load_teacher
from netgraft.nets.quantized import shipped
from netgraft.portable import Student, load_student, save_student
from netgraft.restore import open_restorer
from netgraft.sites import find_sites
from netgraft.stages.finished import finished_run
from netgraft.stages.folder import CheckpointTimer, Folder, Progress, digest_of_files, silent
from netgraft.stages.latency import latency_from, latency_row
from netgraft.stages.student import fixed_content
from netgraft.store import ADAPTATION, RunStore

BEFORE, AFTER = "untuned", "tuned"
EMBEDDED = "embedded"
PORTABLE = Path("export") / "student.safetensors"
"""Where a finished run keeps its student, in one file."""
EXAMPLES = 3
"""Validation crops that parity is checked on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """What an adaptation begins with."""

    student: Student
    teacher: Teacher | None
    """To be adapted beside it, for comparison; None for the student alone."""


def start_from(
    path: Path,
    teacher: Path | None = None,
    *,
    alone: bool = False,
    device: str | None = None,
    progress: Progress = silent,
) -> Start:
    """The student of a finished run's folder, or of a portable file.

    teacher: a checkpoint in place of the student's own teacher. alone: leave the teacher out. device: what it is for
    from now on, in place of what it was refitted to.

    Raises:
        ConfigError: the folder holds no student, or where the file's teacher is, is not known.
        CheckpointError: a file cannot be read.
    """
    if alone and teacher is not None:
        raise ConfigError("--teacher names a network that --no-teacher leaves out: give one of them")
    if path.suffix == ".safetensors" and not path.is_dir():
        student, own = load_student(path), None
    elif (path / PORTABLE).is_file() and (config := stored_config(path)) is not None:
        # What the run delivered, whatever has become of its images since.
        student, own = load_student(path / PORTABLE, factory=config.teacher.factory), config.teacher.load()
    else:
        with finished_run(path, progress) as run:
            student, own = run.student, run.teacher
    if device is not None:
        timed_kind(device)
        student = replace(student, device=device)
    if alone:
        return Start(student=student, teacher=None)
    if teacher is not None:
        own = load_teacher(teacher, tlc=student.design.tlc)
    elif own is None:
        if student.teacher != EMBEDDED:
            raise ConfigError(
                f"{path}: does not hold the teacher ({student.teacher} then): name it with --teacher, or --no-teacher"
            )
        own = load_teacher(tlc=student.design.tlc)
    return Start(student=student, teacher=own)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tuned:
    """A network with its new weights, and how it came to them."""

    module: nn.Module
    looks: tuple[Look, ...]
    """What the validation crops said, from step 0 on."""
    best: Look
    """The one whose weights these are."""
    steps: int
    """Optimizer steps done until it stopped."""


class AdaptStages(Folder):
    """From a student to its files for other images."""

    def __init__(self, start: Start, config: AdaptConfig, store: RunStore, progress: Progress = silent) -> None:
        super().__init__(store, progress)
        self.start = start
        self.config = config
        self.before: dict[str, nn.Module] = {"student": start.student.module}
        """The networks as they come, by name."""
        if start.teacher is not None:
            self.before["teacher"] = start.teacher.module

    def begin(self) -> None:
        """Note in the folder what it is for.

        Raises:
            ConfigError: it holds something else.
        """
        # Not where it computes or how often it times: a folder may go on elsewhere.
        training = self.config.data.model_dump(mode="json") | self.config.training()
        root, about = self.store.root, {"config": training, "networks": self.digests}
        noted = root / ADAPTATION
        if (root / "config.json").exists():
            raise ConfigError(f"{root}: holds a run; choose another --out")
        if noted.exists():
            try:
                known = json.loads(noted.read_text())
            except ValueError:
                known = None
            if known != about:
                raise ConfigError(
                    f"{root}: holds another adaptation (other network, images or settings); use the same settings to "
                    "continue it, or another --out"
                )
        self.store.write(noted, json.dumps(about, indent=1).encode())

    @cached_property
    def device(self) -> Device:
        """What the latencies are measured on: the one that the student was refitted to."""
        return open_device(self.start.student.device, self.start.student.threads)

    @cached_property
    def digests(self) -> dict[str, str]:
        """What stands for the weights of the networks as they come."""
        return {name: weights_digest(module) for name, module in self.before.items()}

    @cached_property
    def images(self) -> dict[str, Any]:
        """What identifies the images."""
        return fingerprint(self.config.data)

    @cached_property
    def test_images(self) -> Sequence[ImagePair]:
        """The images that are reported on, degraded and clean."""
        return whole_images(self.config.data, "test")

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor]:
        """The crops that choose, degraded and clean, (n, 3, h, w)."""
        side = self.config.validation_crop
        return crops_of(self.config.data, "validation", count=self.config.validation_crops, size=(side, side))

    @cached_property
    def source(self) -> SyntheticSource | PairedSource:
        """The images that teach."""
        found = train_source(self.config.data, count=self.config.images, seed=self.config.seed)
        assert isinstance(found, SyntheticSource | PairedSource)
        return found

    @property
    def images_used(self) -> int:
        """How many images teach."""
        source = self.source
        return len(source.photos if isinstance(source, SyntheticSource) else source.pairs)

    @cached_property
    def tuned(self) -> dict[str, Tuned]:
        """The networks, adapted; a stopped training continues at its last checkpoint."""
        with self._timed("adapt"):
            return {name: self.tune(name) for name in self.before}

    def tune(self, name: str) -> Tuned:
        """One of the networks, adapted."""
        config = self.config
        work = Adaptation(self.before[name], config, self.validation)
        path = self.store.path(f"adapt/{name}", self.key(name, AFTER), ".pt")
        if path.exists():
            work.load_state(self.store.load_tensors(path))
        save = CheckpointTimer()

        def on_step(now: Adaptation) -> None:
            self.progress(f"adapt-{name}", now.step, config.steps)
            if save.due():
                self.store.save_tensors(path, now.state())

        looked = len(work.looks)
        stage = CropStage(steps=config.steps, size=config.crop, batch=config.batch)
        work.run(crop_batches(self.source, [stage], seed=config.seed, first_step=work.step), on_step)
        if len(work.looks) != looked:
            self.store.save_tensors(path, work.state())
        return Tuned(module=work.best(), looks=tuple(work.looks), best=work.best_look, steps=work.step)

    def key(self, name: str, form: str) -> dict[str, Any]:
        """What a network depends on."""
        key: dict[str, Any] = {"network": self.digests[name]}
        return key if form == BEFORE else key | {"images": self.images, "training": self.config.training()}

    def module(self, name: str, form: str) -> nn.Module:
        """A network as it came, or tuned."""
        return self.before[name] if form == BEFORE else self.tuned[name].module

    @cached_property
    def weights(self) -> dict[str, Path]:
        """The tuned networks as files for PyTorch, by name."""
        found = {}
        for name, tuned in self.tuned.items():
            found[name] = self.store.root / f"{name}_{AFTER}.safetensors"
            if name == "student":
                save_student(replace(self.start.student, module=tuned.module), found[name])
            else:
                teacher = self.start.teacher
                save_weights(tuned.module, found[name], half=False, metadata=teacher.metadata if teacher else None)
        return found

    @cached_property
    def exports(self) -> dict[tuple[str, str], Export]:
        """The networks as ONNX by name and form, with parity to PyTorch, all by the same exporter."""
        with self._timed("export"):
            found: dict[tuple[str, str], Export] = {}
            for name in self.before:
                for form in (BEFORE, AFTER):
                    self.progress("export", len(found), 2 * len(self.before))
                    found[name, form] = self._export(name, form)
        return found

    @cached_property
    def parts(self) -> dict[str, OnnxParts]:
        """What the networks' files are put together from, by name; of one shape, the parts are the same."""
        h, w = self.start.student.size
        student = self.start.student
        designs = {"student": student.design}
        if self.start.teacher is not None:
            designs["teacher"] = self.start.teacher.design
        made: dict[Design, OnnxParts] = {}
        for design in designs.values():
            with torch.device("meta"):
                sites = find_sites(design.build(), (h, w), named=tuple(student.assignment))
            made[design] = OnnxParts(sites, torch.zeros(1, 3, h, w))
        return {name: made[design] for name, design in designs.items()}

    def _export(self, name: str, form: str) -> Export:
        folder = self.store.root / "export"
        assignment = self.start.student.assignment if name == "student" else {}
        stem = name if form == AFTER else f"{name}_{BEFORE}"
        fixed, dynamic = folder / f"{stem}.onnx", folder / f"{stem}_dynamic.onnx"

        def make() -> dict[str, Any]:
            h, w = self.start.student.size
            degraded, _ = crops_of(self.config.data, "validation", count=EXAMPLES, size=(h, w))
            content = partial(fixed_content, self.parts[name], assignment)
            done = netgraft.export.export(self.module(name, form), folder, stem, torch.split(degraded, 1), content)
            return {
                "size_bytes": done.size_bytes,
                "parity_max_abs": done.parity_max_abs,
                "content": digest_of_files(fixed, dynamic),
            }

        key = self.key(name, form) | {"size": self.start.student.size, "examples": self.images}
        stored = self.with_files(f"export/{stem}", key, make, lambda _: (fixed, dynamic))
        return Export(
            fixed=fixed, dynamic=dynamic, size_bytes=stored["size_bytes"], parity_max_abs=stored["parity_max_abs"]
        )

    @cached_property
    def evaluations(self) -> dict[tuple[str, str], Evaluation]:
        """Scores of the exported files on the test images, by name and form; ``("degraded", "")`` of the images as
        they are."""
        with self._timed("evaluate"):
            found = {("degraded", ""): self._scores("degraded", {}, lambda image: image)}
            for number, ((name, form), done) in enumerate(self.exports.items()):
                self.progress("evaluate", number, len(self.exports))
                key = self.key(name, form) | {"size": self.start.student.size}
                found[name, form] = self._scores(f"{name}_{form}", key, open_restorer(done.fixed))
        return found

    def _scores(self, stem: str, key: Mapping[str, Any], restore: Callable[[RgbImage], RgbImage]) -> Evaluation:
        made_from = {**key, "test": self.images}
        rows = self.store.json(f"evaluate/{stem}", made_from, lambda: evaluate(restore, self.test_images).as_rows())
        return Evaluation.from_rows(rows)

    @cached_property
    def latencies(self) -> dict[tuple[str, str], Latency | Unsupported]:
        """Latency of the networks on the device by name and form, all in turns in one session."""
        names = {f"{name} {form}": (name, form) for name, form in self.exports}
        key = {
            "networks": [self.key(name, form) for name, form in names.values()],
            "device": self.device.description.as_dict(),
            "size": self.start.student.size,
            "samples": self.config.samples,
        }
        with self._timed("measure"):
            rows = self.store.json("measure/latencies", key, lambda: self._measured(names))
        return {names[label]: latency_from(row) for label, row in rows.items()}

    def _measured(self, names: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
        example, _ = crops_of(self.config.data, "validation", count=1, size=self.start.student.size)
        done = iter(range(1, len(names) + 1))

        def compile_one(label: str, module: nn.Module, example: Tensor) -> Runnable | Unsupported:
            self.progress("measure", next(done), len(names))
            if isinstance(self.device, FileDevice):
                return self.device.load(self.exports[names[label]].fixed)
            return self.device.compile(module, example)

        modules = {label: (shipped(self.module(*key)), example) for label, key in names.items()}
        protocol = MeasureProtocol(samples=self.config.samples, seed=self.config.seed)
        timed = measure_modules(self.device, modules, protocol, compile_one=compile_one)
        return {label: latency_row(entry) for label, entry in timed.items()}
