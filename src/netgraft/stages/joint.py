"""What a search minimizes beside the quality loss: the latency on the device, or on several.

Milliseconds of different machines do not compare. So where a single number must stand for several devices, it is the
slowest's: the largest of the devices' latencies, each as a share of the teacher's on the same device.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from netgraft.search.known import Known, KnownQuantity
from netgraft.search.space import Space as Choices
from netgraft.stages.space import SpaceStages

LOSS, LATENCY = 0, 1
"""The objectives of the search; with several devices the latencies of the others may follow."""


class JointStages(SpaceStages):
    """From the devices' latencies to the objectives of one search."""

    @property
    def options(self) -> dict[str, tuple[str, ...]]:
        """The operators on offer by path of the sites that take part, ``keep`` first."""
        return {site.path: names for site, names in zip(self.space.sites, self.space.options, strict=True)}

    @property
    def by_slowest(self) -> bool:
        """Whether the slowest device's latency is the objective, and not each one's."""
        return self.several and self.config.search.joint == "slowest"

    @cached_property
    def device_latencies(self) -> tuple[Known, ...]:
        """The latency on each device in ms, as a search takes it."""
        return tuple(bench.latency_model.known(self.options) for bench in self.profiled)

    @property
    def latency_objectives(self) -> dict[int, Known]:
        """The objectives of the search that are latencies, by index: none needs an evaluation."""
        if self.by_slowest:
            return {LATENCY: lambda rows: self.slowest(self.predicted_ms(rows))}
        return dict(enumerate(self.device_latencies, start=LATENCY))

    @property
    def latency_reference(self) -> tuple[float, ...]:
        """What the teacher has in these objectives."""
        return (1.0,) if self.by_slowest else tuple(self.teacher_ms.tolist())

    @cached_property
    def teacher_ms(self) -> NDArray[np.float64]:
        """The teacher's predicted latency on each device, (D,)."""
        return np.array([float(bench.latency_model.predict_ms([{}])[0]) for bench in self.profiled])

    def predicted_ms(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The predicted latencies, (n, D), of assignments (n, S)."""
        return np.stack([latency(rows) for latency in self._quantities], axis=1)

    @cached_property
    def _quantities(self) -> tuple[KnownQuantity, ...]:
        choices = Choices.of([len(names) for names in self.options.values()])
        return tuple(KnownQuantity(choices, "latency", source) for source in self.device_latencies)

    def slowest(self, latency_ms: NDArray[np.float64]) -> NDArray[np.float64]:
        """The largest of several devices' latencies (n, D), each as a share of the teacher's there: (n,)."""
        return np.asarray((latency_ms / self.teacher_ms).max(axis=1))

    def latency_document(self) -> Mapping[str, object]:
        """What the latencies of the search were made from, as plain data."""
        tables = [
            {"table": bench.latency_table.to_json(), "latencies": bench.latency_model.as_dict()}
            for bench in self.profiled
        ]
        others = {"others": tables[1:], "joint": self.config.search.joint} if self.several else {}
        return tables[0] | others
