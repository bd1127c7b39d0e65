"""What every operator costs on the device at every site, and how whole networks are timed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netgraft.assemble import Assignment
from netgraft.data.images import crops_of
from netgraft.devices import (
    Device,
    FileDevice,
    Latency,
    MeasureProtocol,
    OnnxDevice,
    OnnxParts,
    Runnable,
    Unsupported,
    measure_modules,
    open_device,
)
from netgraft.errors import DeviceError, ExportError
from netgraft.latency import LatencyTable
from netgraft.nets.blocks import deploy
from netgraft.operators import options_for
from netgraft.sites import KEEP, Site
from netgraft.stages.surrogates import SurrogateStages

Networks = Mapping[str, tuple[nn.Module, Assignment]]
"""Networks, in training form, and the operators that they were assembled with, by name."""

log = logging.getLogger(__name__)


class LatencyStages(SurrogateStages):
    """Measures on the device; each shape's operators are an artifact of their own."""

    @cached_property
    def device(self) -> Device:
        """What the latencies are measured on."""
        return open_device(self.config.device.name, self.config.device.threads)

    @cached_property
    def latency_table(self) -> LatencyTable:
        """Every operator's latency at every site's shape; sites of one shape share a session."""
        with self._timed("profile"):
            return self._table(self.store.json)

    def measure_table(self) -> LatencyTable:
        """The same, measured now, whatever the folder holds."""
        return self._table(lambda _name, _key, make: make())

    def _table(self, kept: Callable[[str, Any, Callable[[], Any]], Any]) -> LatencyTable:
        """The table, given who keeps its measurements by name and key."""
        shapes: dict[str, list[Site]] = {}
        for site in self.sites:
            shapes.setdefault(site.shape_key, []).append(site)
        entries: dict[tuple[str, str], Latency | Unsupported] = {}
        for number, (shape, sites) in enumerate(shapes.items()):
            self.progress("profile", number, len(shapes) + 1)
            names = options_for(sites[0], self.pool)
            rows = kept(
                f"profile/{shape.replace(':', '_')}",
                self._profile_key(names),
                partial(self._profile, sites[0], names),
            )
            entries |= {(shape, name): latency_from(row) for name, row in rows.items()}
        self.progress("profile", len(shapes), len(shapes) + 1)
        whole = kept("profile/teacher", self._profile_key(()), self._profile_teacher)
        return LatencyTable(
            device=self.device.description.as_dict(),
            size=self.config.size,
            protocol=self._protocol(self.config.device.samples).as_dict(),
            site_keys={site.path: site.shape_key for site in self.sites},
            entries=entries,
            teacher=latency_from(whole),  # type: ignore[arg-type]
        )

    def _profile_key(self, operators: tuple[str, ...]) -> dict[str, Any]:
        return {
            "device": self.device.description.as_dict(),
            "size": self.config.size,
            "shape": asdict(self.teacher.shape),
            "samples": self.config.device.samples,
            "operators": operators,
        }

    def _profile(self, site: Site, operators: tuple[str, ...]) -> dict[str, Any]:
        """All operators at one site, timed in turns."""
        block, example = self.teacher.module.get_submodule(site.path), site.example(self.config.size)
        modules = {name: deploy(block if name == KEEP else self.pool[name].start(block, site)) for name in operators}
        timed = measure_modules(
            self.device,
            {name: (module, example) for name, module in modules.items()},
            self._protocol(self.config.device.samples),
            compile_one=lambda name, module, _: self._compile(module, example, lambda p: p.block(site, name, module)),
        )
        return {name: latency_row(entry) for name, entry in timed.items()}

    def _profile_teacher(self) -> dict[str, Any]:
        networks: Networks = {KEEP: (self.teacher.module, {})}
        return self._measure_whole(networks, self.config.device.whole_samples)[KEEP]

    def _measure_whole(self, networks: Networks, samples: int) -> dict[str, dict[str, Any]]:
        """Whole networks in their deployed form, in turns.

        Raises:
            DeviceError: the device refuses one of them.
        """
        timed = self._time_whole(networks, samples)
        for name, entry in timed.items():
            if isinstance(entry, Unsupported):
                raise DeviceError(f"the device does not run a whole network ({name}): {entry.reason}")
        return {name: latency_row(entry) for name, entry in timed.items()}

    def _time_whole(
        self, networks: Networks, samples: int, files: Mapping[str, Path] | None = None
    ) -> dict[str, Latency | Unsupported]:
        """The same, with a refusal as a value; some networks may lie in files, for devices that take these."""
        example, done = self._example(), iter(range(1, len(networks) + 1))

        def compile_one(name: str, module: nn.Module, example: Tensor) -> Runnable | Unsupported:
            if files and name in files and isinstance(self.device, FileDevice):
                return self.device.load(files[name])
            return self._compile(module, example, lambda parts: parts.network(module, networks[name][1]))

        return measure_modules(
            self.device,
            {name: (deploy(network), example) for name, (network, _) in networks.items()},
            self._protocol(samples),
            lambda _: self.progress("measure", next(done), len(networks)),
            compile_one,
        )

    @cached_property
    def _parts(self) -> OnnxParts | None:
        """The exported parts of networks, where the device takes ONNX graphs; each is made when first needed."""
        if not isinstance(self.device, OnnxDevice):
            return None
        return OnnxParts(self.sites, torch.zeros(1, 3, *self.config.size), fast_forms=self.device.fast_forms)

    def _compile(
        self, module: nn.Module, example: Tensor, graph: Callable[[OnnxParts], bytes]
    ) -> Runnable | Unsupported:
        """A deployed module on the device, put together from parts where there are any."""
        if self._parts is None or not isinstance(self.device, OnnxDevice):
            return self.device.compile(module, example)
        try:
            content = graph(self._parts)
        except ExportError as error:
            log.info("not put together from parts but exported whole: %s", error)
            return self.device.compile(module, example)
        return self.device.compile_graph(content, module, example)

    def _example(self) -> Tensor:
        degraded, _ = crops_of(self.config.data, "validation", count=1, size=self.config.size)
        return degraded

    def _protocol(self, samples: int) -> MeasureProtocol:
        return MeasureProtocol(samples=samples, seed=self.config.seed)


def latency_row(entry: Latency | Unsupported) -> dict[str, Any]:
    """A measurement, or the device's refusal, as it is stored."""
    return {"unsupported": entry.reason} if isinstance(entry, Unsupported) else asdict(entry)


def latency_from(row: Mapping[str, Any]) -> Latency | Unsupported:
    """What :func:`latency_row` stored."""
    return Unsupported(row["unsupported"]) if "unsupported" in row else Latency(**row)
