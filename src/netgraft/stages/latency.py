"""What every operator costs on the device at every site, and how whole networks are timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from netgraft.data.images import crops_of
from netgraft.devices import Device, Latency, MeasureProtocol, Unsupported, measure_modules, open_device
from netgraft.errors import DeviceError
from netgraft.latency import LatencyTable
from netgraft.nets.blocks import deploy
from netgraft.operators import options_for
from netgraft.sites import KEEP, Site
from netgraft.stages.surrogates import SurrogateStages


class LatencyStages(SurrogateStages):
    """Measures on the device; each shape's operators are an artifact of their own."""

    @cached_property
    def device(self) -> Device:
        """What the latencies are measured on."""
        return open_device(self.config.device.name, self.config.device.threads)

    @cached_property
    def latency_table(self) -> LatencyTable:
        """Every operator's latency at every site's shape; sites of one shape share a session."""
        shapes: dict[str, list[Site]] = {}
        for site in self.sites:
            shapes.setdefault(site.shape_key, []).append(site)
        with self._timed("profile"):
            entries: dict[tuple[str, str], Latency | Unsupported] = {}
            for number, (shape, sites) in enumerate(shapes.items()):
                self.progress("profile", number, len(shapes) + 1)
                names = options_for(sites[0], self.pool)
                rows = self.store.json(
                    f"profile/{shape.replace(':', '_')}",
                    self._profile_key(names),
                    partial(self._profile, sites[0], names),
                )
                entries |= {(shape, name): latency_from(row) for name, row in rows.items()}
            self.progress("profile", len(shapes), len(shapes) + 1)
            whole = self.store.json("profile/teacher", self._profile_key(()), self._profile_teacher)
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
        )
        return {name: latency_row(entry) for name, entry in timed.items()}

    def _profile_teacher(self) -> dict[str, Any]:
        samples = self.config.device.whole_samples
        return self._measure_whole({KEEP: self.teacher.module}, samples)[KEEP]

    def _measure_whole(self, networks: Mapping[str, nn.Module], samples: int) -> dict[str, dict[str, Any]]:
        """Whole networks in their deployed form, in turns."""
        example, done = self._example(), iter(range(1, len(networks) + 1))
        timed = measure_modules(
            self.device,
            {name: (deploy(network), example) for name, network in networks.items()},
            self._protocol(samples),
            lambda _: self.progress("measure", next(done), len(networks)),
        )
        for name, entry in timed.items():
            if isinstance(entry, Unsupported):
                raise DeviceError(f"the device does not run a whole network ({name}): {entry.reason}")
        return {name: latency_row(entry) for name, entry in timed.items()}

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
