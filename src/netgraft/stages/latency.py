"""What every operator costs on the device at every shape of site, and how whole networks are timed there."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from netgraft.assemble import Assignment
from netgraft.data.images import crops_of
from netgraft.devices import (
    Device,
    Latency,
    MeasureProtocol,
    MixedDevice,
    OnnxDevice,
    OnnxParts,
    QueueDevice,
    Runnable,
    Unsupported,
    measure_modules,
    open_device,
)
from netgraft.errors import ExportError
from netgraft.nets.quantized import shipped
from netgraft.operators import in_int8, in_single, options_for
from netgraft.sites import KEEP, Site
from netgraft.stages.surrogates import SurrogateStages
from netgraft.stages.unlocked import unlocked

Networks = Mapping[str, tuple[nn.Module, Assignment]]
"""Networks, in training form, and the operators that they were assembled with, by name."""
Sessions = dict[str, dict[str, Latency | Unsupported]]
"""What was timed together, by name of the session and of what it timed, :data:`REFERENCE` among it."""

REFERENCE = "(reference)"
"""The name under which every session times one and the same block; no operator's, by its parentheses."""

TIMING_CROPS = 2
"""Images that a network is quantized on where only its latency counts."""

log = logging.getLogger(__name__)


class BlockBench:
    """One device of a run, on which blocks are measured; each shape's operators are an artifact of their own.

    stages: the run's, which all its devices share. name: the device's. label: what tells it from the run's others;
    empty where there are none.
    """

    def __init__(self, stages: SurrogateStages, name: str, label: str = "") -> None:
        self.stages = stages
        self.name = name
        self.label = label
        self._announced = False

    @unlocked
    def device(self) -> Device:
        """What the latencies are measured on."""
        return open_device(self.name, self.stages.config.device.threads)

    @property
    def tag(self) -> str:
        """What the names of its files have in them; nothing for the first device."""
        first = self.name == self.stages.config.device.name
        return "" if first else "." + re.sub(r"[^\w.-]+", "-", self.name)

    @property
    def table_file(self) -> str:
        """The name of its latency table in the run folder."""
        return f"latency_table{self.tag}.json"

    def told(self, text: str) -> str:
        """A text about this device, which names it where there are others."""
        return f"{self.label}: {text}" if self.label else text

    def progress(self, stage: str, done: int, total: int) -> None:
        """See :class:`Progress`."""
        self.stages.progress(f"{stage} {self.label}".strip(), done, total)

    @unlocked
    def block_sessions(self) -> Sessions:
        """Every operator's latency at every shape of site: sites of one shape share a session."""
        return self._block_sessions(self.stages.store.json)

    def measure_blocks(self) -> Sessions:
        """The same, measured now, whatever the folder holds."""
        return self._block_sessions(lambda _name, _key, make: make())

    def _block_sessions(self, kept: Callable[[str, Any, Callable[[], Any]], Any]) -> Sessions:
        """The sessions, given who keeps measurements by name and key."""
        # Of equal sites the first.
        shapes = {site.shape_key: site for site in reversed(self.stages.sites)}
        found = {}
        for number, shape in enumerate(dict.fromkeys(site.shape_key for site in self.stages.sites)):
            self.progress("profile", number, len(shapes))
            site, names = shapes[shape], options_for(shapes[shape], self.stages.pool)
            make = partial(self._profile, site, names)
            rows = kept(f"profile/{shape.replace(':', '_')}", self.profile_key(names), make)
            found[shape] = {name: latency_from(row) for name, row in rows.items()}
        return found

    @unlocked
    def runnable(self) -> dict[str, tuple[str, ...]]:
        """The operators that the device runs, ``keep`` first, by path of the open sites."""
        return {
            site.path: tuple(
                name
                for name in options_for(site, self.stages.pool)
                if isinstance(self.block_sessions[site.shape_key][name], Latency)
            )
            for site in self.stages.open_sites
        }

    def profile_key(self, operators: tuple[str, ...]) -> dict[str, Any]:
        return {
            "device": self.device.description.as_dict(),
            "size": self.stages.config.size,
            "shape": self.stages.design_key,
            # What a key of a shape stands for depends on which other sites there are.
            "blocks": {site.shape_key: site.path for site in reversed(self.stages.sites)},
            "samples": self.stages.config.device.samples,
            "operators": operators,
            "reference": self._reference.path,
        }

    def _profile(self, site: Site, operators: tuple[str, ...]) -> dict[str, Any]:
        """All operators at one site, timed in turns."""
        if isinstance(self.device, QueueDevice):
            self._announce(self.device)
        timed = self._time(
            self._blocks(site, operators),
            self.stages.config.device.samples,
            lambda name, module, _: self._compile_block(site, name, module),
        )
        return {name: latency_row(entry) for name, entry in timed.items()}

    def _blocks(self, site: Site, operators: tuple[str, ...]) -> dict[str, tuple[nn.Module, Tensor]]:
        """Deployed blocks for a site by operator, each with its input."""
        block, example = self.stages.teacher.module.get_submodule(site.path), site.example(self.stages.config.size)
        return {
            name: (
                shipped(site.alone(block if name == KEEP else self.stages.pool[name].module_at(site, block))),
                example,
            )
            for name in operators
        }

    def _announce(self, device: QueueDevice) -> None:
        """Every block of every shape, once, before the first is waited for."""
        if not self._announced:
            self._announced = True
            shapes = {site.shape_key: site for site in reversed(self.stages.sites)}
            for site in shapes.values():
                device.announce(list(self._blocks(site, options_for(site, self.stages.pool)).values()))

    def time_whole(
        self, networks: Networks, samples: int, ready: Mapping[str, Callable[[], Runnable]] | None = None
    ) -> dict[str, Latency | Unsupported]:
        """Whole networks in their deployed form, in turns; some may be ready to be opened, those in files for one."""
        example, done = self._example(), iter(range(1, len(networks) + 1))

        def compile_one(name: str, module: nn.Module, example: Tensor) -> Runnable | Unsupported:
            self.progress("measure", next(done), len(networks))
            if ready and name in ready:
                return ready[name]()
            single, paths = in_precisions(networks[name][1])
            return self._compile(
                module,
                example,
                lambda parts: parts.network(module, single),
                paths,
                self.stages.quantization_crops[:TIMING_CROPS],
            )

        return self._time(
            {name: (shipped(network), example) for name, (network, _) in networks.items()}, samples, compile_one
        )

    def _time(
        self,
        modules: Mapping[str, tuple[nn.Module, Tensor]],
        samples: int,
        compile_one: Callable[[str, nn.Module, Tensor], Runnable | Unsupported],
    ) -> dict[str, Latency | Unsupported]:
        """One session: what is asked for in turns, and among it the reference, which tells sessions apart."""
        site = self._reference
        reference = shipped(site.alone(self.stages.teacher.module.get_submodule(site.path)))

        def compile_any(name: str, module: nn.Module, example: Tensor) -> Runnable | Unsupported:
            if name == REFERENCE:
                return self._compile_block(site, KEEP, module)
            return compile_one(name, module, example)

        return measure_modules(
            self.device,
            {**modules, REFERENCE: (reference, site.example(self.stages.config.size))},
            self.protocol(samples),
            compile_one=compile_any,
        )

    @property
    def _reference(self) -> Site:
        """The site in the middle, whose block of the teacher is timed in every session: a short one in a U-Net."""
        return self.stages.sites[len(self.stages.sites) // 2]

    @unlocked
    def parts(self) -> OnnxParts | None:
        """The exported parts of networks, where the device takes ONNX graphs; each is made when first needed."""
        if not isinstance(self.device, OnnxDevice):
            return None
        device = self.device
        example = torch.zeros(1, 3, *self.stages.config.size)
        return OnnxParts(self.stages.sites, example, fast_forms=device.fast_forms, fp16_safe=device.fp16_safe)

    def _compile_block(self, site: Site, operator: str, module: nn.Module) -> Runnable | Unsupported:
        example = site.example(self.stages.config.size)
        # The empty path is the block itself.
        paths = ("",) if in_int8(operator) else ()
        return self._compile(
            module, example, lambda parts: parts.block(site, in_single(operator), module), paths, example
        )

    def _compile(
        self,
        module: nn.Module,
        example: Tensor,
        graph: Callable[[OnnxParts], bytes],
        paths: Sequence[str],
        calibration: Tensor,
    ) -> Runnable | Unsupported:
        """A deployed module on the device, put together from parts where there are any.

        paths: of what is in 8 bits, where the device mixes precisions; calibration: inputs that it is quantized on.
        """
        if self.parts is None or not isinstance(self.device, OnnxDevice):
            return self.device.compile(module, example)
        try:
            content = graph(self.parts)
        except ExportError as error:
            if paths and isinstance(self.device, MixedDevice):
                return Unsupported(f"it cannot be put together from parts, of which some are in 8 bits: {error}")
            log.info("not put together from parts but exported whole: %s", error)
            return self.device.compile(module, example)
        if isinstance(self.device, MixedDevice):
            return self.device.compile_mixed(content, paths, module, example, calibration)
        return self.device.compile_graph(content, module, example)

    def _example(self) -> Tensor:
        degraded, _ = crops_of(self.stages.config.data, "validation", count=1, size=self.stages.config.size)
        return degraded

    def protocol(self, samples: int) -> MeasureProtocol:
        return MeasureProtocol(samples=samples, seed=self.stages.config.seed)


def in_precisions(assignment: Assignment) -> tuple[dict[str, str], tuple[str, ...]]:
    """The same operators in single precision, and the paths of those that are in 8 bits."""
    single = {path: in_single(name) for path, name in assignment.items()}
    return single, tuple(path for path, name in assignment.items() if in_int8(name))


def latency_row(entry: Latency | Unsupported) -> dict[str, Any]:
    """A measurement, or the device's refusal, as it is stored."""
    return {"unsupported": entry.reason} if isinstance(entry, Unsupported) else asdict(entry)


def latency_from(row: Mapping[str, Any]) -> Latency | Unsupported:
    """What :func:`latency_row` stored."""
    return Unsupported(row["unsupported"]) if "unsupported" in row else Latency(**row)
