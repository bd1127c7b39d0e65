"""Every candidate: what it is, which runtime runs it, and how its file is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from netgraft.config import PRESETS, parse_config
from netgraft.devices import to_onnx
from netgraft.nets.blocks import deploy
from netgraft.nets.load import load_teacher
from netgraft.nets.nafnet import NafNetShape
from netgraft.search import knee
from netgraft.sites import KEEP
from netgraft.stages import Run
from netgraft.store import RunStore
from peer.int8 import by_nncf, by_onnxruntime
from peer.pruning import pruned
from peer.smaller import fresh, with_fewer_blocks
from peer.workshop import Network, Workshop, file_digest

SPEEDUPS = (1.5, 2.0, 2.5, 5.0)
"""Points of our front beside the chosen one, the knee and the fastest: the slowest that is so many times as fast."""
FRESH_RATE = 1.5e-3
"""Peak learning rate of a network that starts from nothing, as in ``netgraft train``."""
PRUNED = {"pruned-25": (0.25, False), "pruned-50": (0.5, False), "pruned-inner-50": (0.5, True)}
"""Share of the channels that goes, and whether only inside the blocks."""
SMALLER = {
    "shallow-4": NafNetShape(width=16, encoder_blocks=(1, 1, 1, 4), middle_blocks=1, decoder_blocks=(1, 1, 1, 1)),
    "shallow-by-card": NafNetShape(width=16, encoder_blocks=(1, 1, 1, 2), middle_blocks=0, decoder_blocks=(0, 1, 1, 0)),
    "narrow-8": NafNetShape(width=8, encoder_blocks=(1, 1, 1, 28), middle_blocks=1, decoder_blocks=(1, 1, 1, 1)),
}
"""By hand: the teacher's shape with fewer blocks, without what its model card shows to be worth least, half as wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One row of the table."""

    name: str
    family: str
    """What the plot's legend calls it."""
    runtime: str
    """``onnxruntime`` or ``openvino``; each has a front of its own."""
    network: Callable[[], Network]
    """Its file: made now, or found made."""


class Candidates:
    """All of them, from one workshop and one finished run.

    ours: run folder of the demo preset. scratch: checkpoints of networks trained from nothing, by name.
    refit_seconds: processor time of the whole refit; by default measured, see :attr:`refit_cpu_seconds`.
    """

    def __init__(
        self, shop: Workshop, ours: Path, scratch: Mapping[str, Path], refit_seconds: float | None = None
    ) -> None:
        self.shop = shop
        self.ours = ours
        self.scratch = scratch
        self.refit_seconds = refit_seconds
        self.figures = json.loads((ours / "result.json").read_text())
        self.recipe = shop.recipe.model_dump()

    def all(self) -> list[Candidate]:
        """In the order in which they are best made."""
        rows: list[tuple[str, str, Callable[[], Network]]] = [("teacher", "teacher", self.teacher)]
        rows += [(name, "netgraft", partial(self.student, name)) for name in self.front]
        rows += [
            ("int8-conv", "int8", partial(self.int8, self.teacher, ("Conv",))),
            ("int8-all", "int8", partial(self.int8, self.plain_teacher, None)),
        ]
        rows += [(name, "channels pruned", partial(self.pruned, name)) for name in PRUNED]
        rows += [(name, "smaller, distilled", partial(self.smaller, name)) for name in SMALLER]
        rows += [(name, "smaller, from scratch", partial(self.from_scratch, name)) for name in self.scratch]
        rows.append(("paper", "the paper's recipe", self.paper))
        student = partial(self.student, "netgraft")
        found = [Candidate(name=n, family=f, runtime="onnxruntime", network=m) for n, f, m in rows]
        rows = [
            ("ov-teacher", "teacher", self.teacher),
            ("ov-netgraft", "netgraft", student),
            ("ov-int8", "int8", partial(self.nncf, self.teacher)),
            ("ov-netgraft-int8", "netgraft, then int8", partial(self.nncf, student)),
        ]
        return found + [Candidate(name=n, family=f, runtime="openvino", network=m) for n, f, m in rows]

    @cached_property
    def front(self) -> dict[str, dict[str, str]]:
        """Assignments by candidate name: the run's student, and points of its front; none appears twice."""
        points = sorted(self.figures["front"], key=lambda point: -point["latency_ms"])
        times = np.array([point["latency_ms"] for point in points])
        losses = np.array([point["quality_loss_db"] for point in points])
        teacher_ms = points[int(np.argmin(losses))]["latency_ms"]
        named = {"netgraft": self.figures["student"]["assignment"]}
        named |= {
            f"netgraft-{speedup:g}x": points[int(np.argmax(times <= teacher_ms / speedup))]["assignment"]
            for speedup in SPEEDUPS
            if times[-1] <= teacher_ms / speedup
        }
        named["netgraft-knee"] = points[knee(np.stack([losses, times], axis=1))]["assignment"]
        named["netgraft-fastest"] = points[-1]["assignment"]
        rows = [{path: name for path, name in row.items() if name != KEEP} for row in named.values()]
        return {name: row for i, (name, row) in enumerate(zip(named, rows, strict=True)) if row not in rows[:i]}

    @cached_property
    def run(self) -> Run:
        """The finished run, for its surrogates."""
        config = parse_config(json.loads((self.ours / "config.json").read_text()), str(self.ours))
        return Run(config, RunStore(self.ours))

    def teacher(self) -> Network:
        """As netgraft exports it."""
        return self.shop.network("teacher", {}, lambda folder: self.shop.export(folder, self.shop.teacher.module))

    def plain_teacher(self) -> Network:
        """As PyTorch's exporter leaves it, for tools that know the operators of a plain graph."""

        def make(folder: Path) -> Network:
            path = folder / "network.onnx"
            to_onnx(deploy(self.shop.teacher.module), self.shop.example, path, fast_forms=False)
            return Network(path=path, facts={})

        return self.shop.network("teacher-plain", {}, make)

    def student(self, name: str) -> Network:
        """A point of our front, fine-tuned."""
        start = partial(self._started, name)
        return self.shop.network(
            name, self._student_key(name), lambda folder: self.shop.trained(folder, start, self.shop.recipe)
        )

    def _started(self, name: str) -> nn.Module:
        return self.run.student_of(self.front[name])

    def _student_key(self, name: str) -> Any:
        return {"assignment": self.front[name], "recipe": self.recipe, "distill": self.run.config.distill.model_dump()}

    @cached_property
    def refit_cpu_seconds(self) -> float:
        """Processor time of saliency, distillation, search and fine-tuning of our run.

        A run folder knows wall times alone; fine-tuning was repeated here, so that its processor time is known, and the
        other stages are taken in proportion. Profiling is left out: it computes nothing that is learned.
        """
        if self.refit_seconds is not None:
            return self.refit_seconds
        wall = self.figures["seconds"]
        learned = sum(wall[stage] for stage in ("saliency", "distill", "search", "finetune"))
        return float(self.student("netgraft").facts["cpu_seconds"] * learned / wall["finetune"])

    def pruned(self, name: str) -> Network:
        """The teacher with fewer channels, fine-tuned."""
        ratio, inner_only = PRUNED[name]

        def start() -> nn.Module:
            return pruned(self.shop.teacher.module, ratio, "taylor", self.shop.calibration, inner_only=inner_only)

        key = {"ratio": ratio, "inner_only": inner_only, "recipe": self.recipe}
        return self.shop.network(name, key, lambda folder: self.shop.trained(folder, start, self.shop.recipe))

    def smaller(self, name: str) -> Network:
        """A smaller NAFNet, distilled for as long as the whole refit took."""
        shape, teacher = SMALLER[name], self.shop.teacher
        same_width = shape.width == teacher.design.shape.width
        recipe = self.shop.recipe if same_width else self.shop.recipe.model_copy(update={"learning_rate": FRESH_RATE})

        def start() -> nn.Module:
            return with_fewer_blocks(teacher.module, shape) if same_width else fresh(shape, seed=self.shop.seed)

        key = {"shape": str(shape), "recipe": recipe.model_dump(), "budget": "refit", "seconds": self.refit_seconds}
        return self.shop.network(
            name, key, lambda folder: self.shop.trained(folder, start, recipe, self.refit_cpu_seconds)
        )

    def from_scratch(self, name: str) -> Network:
        """A checkpoint of ``netgraft train``, as it is."""
        path = self.scratch[name]
        return self.shop.network(
            name,
            {"file": file_digest(path)},
            lambda folder: self.shop.export(folder, load_teacher(path).module),
        )

    def paper(self) -> Network:
        """The paper's recipe, run in full; its fastest point, fine-tuned like every other candidate."""
        run = Run(PRESETS["paper"](), RunStore(self.shop.store.root / "paper_run"))

        def start() -> nn.Module:
            with run.store.lock():
                return run.student_of(run.assignment)

        key = {"config": run.config.model_dump(mode="json"), "recipe": self.recipe}
        return self.shop.network("paper", key, lambda folder: self.shop.trained(folder, start, self.shop.recipe))

    def int8(self, source: Callable[[], Network], operators: tuple[str, ...] | None) -> Network:
        """Quantized for ONNX Runtime."""
        given = source()

        def make(folder: Path) -> Network:
            target, images = folder / "network.onnx", self.shop.calibration[0].numpy()
            return Network(path=target, facts={"cpu_seconds": by_onnxruntime(given.path, target, images, operators)})

        name = "int8-all" if operators is None else "int8-" + "-".join(operators).lower()
        return self.shop.network(name, {"source": file_digest(given.path), "operators": operators}, make)

    def nncf(self, source: Callable[[], Network]) -> Network:
        """Quantized for OpenVINO."""
        given = source()

        def make(folder: Path) -> Network:
            target, images = folder / "network.xml", self.shop.calibration[0].numpy()
            return Network(path=target, facts={"cpu_seconds": by_nncf(given.path, target, images)})

        return self.shop.network("nncf", {"source": file_digest(given.path)}, make)
