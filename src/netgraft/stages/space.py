"""The options that are worth searching, the network of any choice of them, and whether block latencies add up to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from netgraft.assemble import assemble, named_assignment
from netgraft.data.images import crops_of
from netgraft.devices import Unsupported
from netgraft.latency import AdditivityReport, additivity
from netgraft.operators import options_for
from netgraft.sites import KEEP, Site
from netgraft.stages.latency import LatencyStages


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An option that left the space before the search."""

    site: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What the search chooses from."""

    sites: tuple[Site, ...]
    """Sites that take part, in data-flow order."""
    options: tuple[tuple[str, ...], ...]
    """Operators on offer at each, ``keep`` first."""
    refused: tuple[Refused, ...]
    """Options that were left out, with the reason."""


class SpaceStages(LatencyStages):
    """From surrogates and latencies to the space, and from an assignment in it to a network."""

    @cached_property
    def space(self) -> Space:
        """Sites and options that are worth searching."""
        options, refused = [], []
        for site in self.open_sites:
            kept, left_out = self._worthwhile(site)
            options.append(kept)
            refused += left_out
        return Space(sites=self.open_sites, options=tuple(options), refused=tuple(refused))

    def _worthwhile(self, site: Site) -> tuple[tuple[str, ...], list[Refused]]:
        """The options of a site that no other beats in both latency and feature error."""
        table, errors = self.latency_table, self.surrogates.errors
        names = options_for(site, self.pool)
        cost = {name: table.operator_ms(site.path, name) for name in names}
        error = {name: 0.0 if name == KEEP else errors[site.path, name] for name in names}
        kept, refused = [KEEP], []
        for name in names[1:]:
            entry = table.entry(site.path, name)
            if isinstance(entry, Unsupported):
                refused.append(Refused(site=site.path, operator=name, reason=entry.reason))
                continue
            better = [n for n in names if cost[n] < cost[name] and error[n] <= error[name]]
            if better:
                reason = f"{better[0]} is faster ({cost[better[0]]:.3f} against {cost[name]:.3f} ms) and closer"
                refused.append(Refused(site=site.path, operator=name, reason=reason))
            else:
                kept.append(name)
        return tuple(kept), refused

    def name_row(self, row: list[int]) -> dict[str, str]:
        """Operator by site path of a row of the search."""
        return named_assignment(row, self.space.sites, self.space.options)

    @cached_property
    def calibration(self) -> Tensor:
        """The images that each assembled network is calibrated on."""
        degraded, _ = crops_of(
            self.config.data, "train", count=self.config.search.calibration, size=self.config.size, seed=1
        )
        return degraded

    def student_of(self, assignment: Mapping[str, str]) -> nn.Module:
        """A new student, calibrated but not fine-tuned."""
        return assemble(self.teacher.module, assignment, self.surrogates.modules, calibration=self.calibration)

    @cached_property
    def additivity(self) -> AdditivityReport:
        """Random assignments, measured whole and interleaved, against the sums of their blocks."""
        rng = np.random.default_rng(self.config.seed)
        rows = [
            [int(rng.integers(len(names))) for names in self.space.options]
            for _ in range(self.config.device.check_networks)
        ]
        names = [self.name_row(row) for row in rows]
        with self._timed("profile"):
            key = {"profile": self._profile_key(()), "names": names, "samples": self.config.device.whole_samples}
            measured = self.store.json("profile/whole", key, lambda: self._measure_assignments(names))
        return additivity(
            [self.latency_table.additive_ms(assignment) for assignment in names],
            [row["median_ms"] for row in measured],
        )

    def _measure_assignments(self, assignments: list[dict[str, str]]) -> list[dict[str, Any]]:
        networks = {
            # Calibrated, or what is frozen in many places at once may diverge, which devices refuse.
            str(number): self.student_of(assignment)
            for number, assignment in enumerate(assignments)
        }
        return list(self._measure_whole(networks, self.config.device.whole_samples).values())
