"""Where candidates are made: trained, exported and scored, each step kept in the output folder once it is done."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import DataConfig, ImagePair, crops_of, fingerprint, train_source, whole_images
from netgraft.devices import OnnxRuntimeDevice, Runnable
from netgraft.errors import NetgraftError
from netgraft.evaluate import eight_bits
from netgraft.export import export
from netgraft.finetune import FinetuneConfig, Finetuning
from netgraft.imaging import RgbImage, psnr_db
from netgraft.nets.blocks import deploy
from netgraft.nets.load import Teacher, load_teacher
from netgraft.nets.macs import count_macs
from netgraft.restore import Restorer
from netgraft.store import RunStore, digest
from peer.openvino_device import OpenVinoDevice

SIZE = (256, 256)
"""Height and width that every network is exported, timed and run at, in pixels."""
CALIBRATION_CROPS = 32
"""Training crops of :data:`SIZE` that quantization and pruning look at."""
CHECKPOINT_SECONDS = 30.0
"""Longest training that a kill can cost."""
TRAINING = "training.pt"
"""Where a network's training is kept, in its folder."""
PROBE_STEPS = 6
"""Steps that tell how long one takes, where a budget is given in processor seconds."""

Facts = dict[str, Any]
Start = Callable[[], nn.Module]
"""Makes the network that training begins with; the same at every call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A candidate's file, and what it cost."""

    path: Path
    """ONNX, or OpenVINO's XML, at the fixed size."""
    facts: Facts
    """``steps`` and ``cpu_seconds`` of its making, ``macs``, ``params``; what does not apply is missing."""


class MissingNetworkError(NetgraftError):
    """A network that was to be there."""


class Workshop:
    """The data, the teacher and the folder that all candidates share."""

    def __init__(self, out: Path, data: DataConfig, recipe: FinetuneConfig, *, seed: int = 0) -> None:
        self.store = RunStore(out)
        self.data = data
        self.recipe = recipe
        self.seed = seed
        self.frozen = False
        """Whether to make nothing any more."""
        self.devices = {"onnxruntime": OnnxRuntimeDevice(), "openvino": OpenVinoDevice()}

    @cached_property
    def teacher(self) -> Teacher:
        return load_teacher()

    @cached_property
    def calibration(self) -> tuple[Tensor, Tensor]:
        """Training crops (degraded, clean), both (n, 3, h, w)."""
        return crops_of(self.data, "train", count=CALIBRATION_CROPS, size=SIZE, seed=2)

    @cached_property
    def example(self) -> Tensor:
        """What every network is timed on: (1, 3, h, w)."""
        return crops_of(self.data, "validation", count=1, size=SIZE)[0]

    def network(self, name: str, key: Any, make: Callable[[Path], Network]) -> Network:
        """The network of this name, made from ``key``: read if the folder holds it, otherwise made now.

        make: writes into the folder that it is given, where it may also keep what it needs to continue.
        """
        folder = self.store.root / "networks" / f"{name}.{digest(key)}"
        record = folder / "facts.json"
        if record.exists():
            stored = json.loads(record.read_text())
            return Network(path=folder / stored.pop("file"), facts=stored)
        if self.frozen:
            raise MissingNetworkError(f"{folder}: not made yet; run with --prepare-only first")
        folder.mkdir(parents=True, exist_ok=True)
        made = make(folder)
        entry = {"file": made.path.name, **made.facts}
        self.store.write(record, json.dumps(entry, indent=1).encode())
        return made

    def has(self, network: Callable[[], Network]) -> bool:
        """Whether the network is there; asked once nothing is made any more."""
        try:
            network()
        except MissingNetworkError:
            return False
        return True

    def export(self, folder: Path, module: nn.Module, **facts: Any) -> Network:
        """Write ``module`` in its deployed form; parity to PyTorch is enforced."""
        path = export(module, folder, "network", [self.example]).fixed
        deployed = deploy(module)
        counted = {"macs": count_macs(deployed, SIZE), "params": sum(p.numel() for p in deployed.parameters())}
        return Network(path=path, facts=counted | facts)

    def trained(self, folder: Path, start: Start, recipe: FinetuneConfig, cpu_seconds: float | None = None) -> Network:
        """Fine-tune against clean images and the teacher, then export.

        cpu_seconds: train for about so much processor time instead of ``recipe.steps``; the steps that this gives
        are settled by a short probe and kept, so that the learning rate's schedule stays one.
        """
        path = folder / TRAINING
        stored = self.store.load_tensors(path) if path.exists() else None
        if stored is None and cpu_seconds is not None:
            recipe = recipe.model_copy(update={"steps": self._steps_within(cpu_seconds, start, recipe)})
        elif stored is not None:
            recipe = FinetuneConfig(**stored["recipe"])
        work = Finetuning(start(), self.teacher.module, recipe)
        spent = 0.0
        if stored is not None:
            work.load_state(stored["state"])
            spent = stored["cpu_seconds"]
        began, saved = time.process_time(), time.monotonic()

        def save() -> None:
            now = spent + time.process_time() - began
            entry = {"state": work.state(), "cpu_seconds": now, "recipe": recipe.model_dump()}
            self.store.save_tensors(path, entry)

        def on_step(_: Finetuning) -> None:
            nonlocal saved
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                save()
                saved = time.monotonic()

        before = work.step
        work.run(self._batches(recipe, before), on_step)
        if work.step != before:
            save()
        seconds = spent + time.process_time() - began if work.step != before else spent
        return self.export(folder, work.average, steps=work.step, cpu_seconds=seconds)

    def _batches(self, recipe: FinetuneConfig, first_step: int = 0) -> Any:
        stage = CropStage(steps=recipe.steps, size=recipe.crop, batch=recipe.batch)
        return crop_batches(train_source(self.data, seed=self.seed), [stage], seed=self.seed + 1, first_step=first_step)

    def _steps_within(self, cpu_seconds: float, start: Start, recipe: FinetuneConfig) -> int:
        probe = recipe.model_copy(update={"steps": PROBE_STEPS + 1})
        work, times = Finetuning(start(), self.teacher.module, probe), []
        # The first step allocates; the clock starts after it.
        work.run(self._batches(probe), lambda _: times.append(time.process_time()))
        return max(1, round(cpu_seconds * PROBE_STEPS / (times[-1] - times[0])))

    def load(self, runtime: str, path: Path) -> Runnable:
        """The file, ready to run on one thread."""
        return self.devices[runtime].load(path)

    def psnr_db(self, name: str, runtime: str, path: Path, images: TestSet) -> list[float]:
        """PSNR of every whole test image through the file, in tiles of its fixed size."""
        key = {"file": file_digest(path), "data": fingerprint(images.data), "runtime": runtime}

        def make() -> list[float]:
            runnable = self.load(runtime, path)
            try:
                restorer = Restorer(run=lambda x: torch.from_numpy(runnable.run(x.numpy())), fixed=SIZE)
                return images.psnr_db(restorer)
            finally:
                runnable.close()

        scores: list[float] = self.store.json(f"scores/{images.label}/{name}", key, make)
        return scores

    def degraded_db(self, images: TestSet) -> float:
        """Mean PSNR of doing nothing."""
        key = {"data": fingerprint(images.data)}
        scores = self.store.json(f"scores/{images.label}/degraded", key, lambda: images.psnr_db(lambda image: image))
        return float(np.mean(scores))


class TestSet:
    """Test photographs, read when they are needed."""

    def __init__(self, label: str, data: DataConfig) -> None:
        self.label = label
        self.data = data

    @cached_property
    def images(self) -> list[ImagePair]:
        return whole_images(self.data, "test")

    def psnr_db(self, restore: Callable[[RgbImage], RgbImage]) -> list[float]:
        """One value an image, on 8-bit rounded RGB."""
        return [psnr_db(eight_bits(restore(i.degraded)), eight_bits(i.clean)) for i in self.images]


def file_digest(path: Path) -> str:
    """Stands for what a network's file holds; OpenVINO keeps the weights beside its XML."""
    weights = path.with_suffix(".bin")
    content = path.read_bytes() + (weights.read_bytes() if weights.exists() else b"")
    return hashlib.sha256(content).hexdigest()
