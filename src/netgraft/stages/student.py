"""The student: fine-tuned from end to end, and exported beside the teacher."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import netgraft.export
from netgraft.assemble import Assignment
from netgraft.compute import CPU
from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import train_source
from netgraft.devices import OnnxParts, onnx_bytes
from netgraft.errors import ExportError
from netgraft.export import Export
from netgraft.finetune import Finetuning
from netgraft.nets.quantized import has_rounding, quantized_network, shipped
from netgraft.portable import Student, save_student
from netgraft.stages.folder import CheckpointTimer, digest_of_files
from netgraft.stages.latency import in_precisions
from netgraft.stages.search import SearchStages

PORTABLE_FILE = "student.safetensors"
"""Beside the student's ONNX files."""

log = logging.getLogger(__name__)


class StudentStages(SearchStages):
    """From the chosen assignment to the files that ship."""

    @cached_property
    def finetuned(self) -> tuple[nn.Module, list[float]]:
        """The fine-tuned student, and the loss of every step."""
        config = self.config.finetune
        with self._timed("finetune"):
            start = self.student_of(self.assignment)
            if config.quantized:
                start = quantized_network(start, self.quantization_crops)
            work = Finetuning(start, self.teacher.module, config, self.config.compute)
            key = self.search_key() | {"assignment": self.assignment, "finetune": config.model_dump()}
            path = self.store.path("finetune/student", key, ".pt")
            if path.exists():
                work.load_state(self.store.load_tensors(path))
            save = CheckpointTimer()

            def on_step(now: Finetuning) -> None:
                self.progress("finetune", now.step, config.steps)
                if save.due():
                    self.store.save_tensors(path, now.state())

            source = train_source(self.config.data, seed=self.config.seed)
            stage = CropStage(steps=config.steps, size=config.crop, batch=config.batch)
            before = work.step
            # Another seed than the distillation's: the student should see other crops.
            work.run(crop_batches(source, [stage], seed=self.config.seed + 1, first_step=before), on_step)
            if work.step != before:
                self.store.save_tensors(path, work.state())
        student = work.average.to(CPU) if config.steps else start
        # What rounded meanwhile has done its part: from here on devices do so themselves.
        return (shipped(student) if has_rounding(student) else student), work.losses

    @cached_property
    def exports(self) -> dict[str, Export]:
        """Teacher and student as ONNX, with parity to PyTorch."""
        folder = self.store.root / "export"
        examples = torch.split(self.validation[0], 1)[:3]
        with self._timed("export"):
            found: dict[str, Export] = {}
            for name, module in (("teacher", self.teacher.module), ("student", self.finetuned[0])):
                self.progress("export", len(found), 2)
                found[name] = self._export(name, module, folder, examples)
        return found

    def _export(self, name: str, module: nn.Module, folder: Path, examples: Sequence[Tensor]) -> Export:
        assignment = self.assignment if name == "student" else {}
        key = self.network_key(name)
        fixed, dynamic = folder / f"{name}.onnx", folder / f"{name}_dynamic.onnx"

        def make() -> dict[str, Any]:
            parts = self.bench.parts
            content = None if parts is None else partial(fixed_content, parts, assignment)
            done = netgraft.export.export(module, folder, name, examples, content)
            return {
                "size_bytes": done.size_bytes,
                "parity_max_abs": done.parity_max_abs,
                "content": digest_of_files(fixed, dynamic),
            }

        stored = self.with_files(f"export/{name}", key, make, lambda _: (fixed, dynamic))
        return Export(
            fixed=fixed,
            dynamic=dynamic,
            size_bytes=stored["size_bytes"],
            parity_max_abs=stored["parity_max_abs"],
        )

    @property
    def student(self) -> Student:
        """The fine-tuned student with all that it needs to leave this run."""
        return Student(
            module=self.finetuned[0],
            design=self.teacher.design,
            assignment=self.assignment,
            size=self.config.size,
            device=self.config.device.name,
            threads=self.config.device.threads,
            teacher=self.teacher.source,
        )

    @cached_property
    def portable(self) -> Path:
        """The student as a file for PyTorch, which needs no run folder."""
        path = self.store.root / "export" / PORTABLE_FILE

        def make() -> dict[str, Any]:
            save_student(self.student, path)
            return {"content": digest_of_files(path)}

        self.with_files("export/portable", self.network_key("student"), make, lambda _: (path,))
        return path

    def network_key(self, name: str) -> dict[str, Any]:
        """What the teacher or the student, by name, depends on."""
        assignment = self.assignment if name == "student" else {}
        key = self.search_key() | {"finetune": self.config.finetune.model_dump()}
        return key | {"name": name, "assignment": assignment}


def fixed_content(parts: OnnxParts, assignment: Assignment, deployed: nn.Module) -> bytes:
    """The ONNX file of a deployed network with these operators, from parts that were exported once."""
    try:
        return parts.network(deployed, in_precisions(assignment)[0])
    except ExportError as error:
        log.info("not put together from parts but exported whole: %s", error)
        return onnx_bytes(deployed, parts.example)
