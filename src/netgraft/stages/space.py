"""The options that are worth searching, the network of any choice of them, and whether block latencies add up to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from netgraft.assemble import Assignment, assemble, named_assignment
from netgraft.data.images import crops_of
from netgraft.devices import Latency, Unsupported
from netgraft.latency import AdditivityReport, additivity
from netgraft.latency_model import LatencyModel, fit, left_out_ms
from netgraft.nets.blocks import deploy
from netgraft.nets.macs import count_macs
from netgraft.operators import options_for
from netgraft.sites import KEEP, Site
from netgraft.stages.latency import LatencyStages, latency_row

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """The most that any assignment of a space can save, as shares of the teacher, 0 to 1."""

    macs: float
    """Multiply-accumulates, with the fewest at every site."""
    latency: float
    """Predicted latency, with the fastest at every site."""
    fastest_ms: float
    """That latency."""


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

    @cached_property
    def ceiling(self) -> Ceiling:
        """What no search can beat, known before it starts."""
        predict, macs, fastest = self.latency_model.predict_ms, 0.0, {}
        for site, names in zip(self.space.sites, self.space.options, strict=True):
            fastest[site.path] = names[int(np.argmin(predict([{site.path: name} for name in names])))]
            macs += site.macs_share - min(self._macs_share(site, name) for name in names)
        teacher_ms, fastest_ms = predict([{}, fastest]).tolist()
        return Ceiling(macs=macs, latency=1 - fastest_ms / teacher_ms, fastest_ms=fastest_ms)

    def _macs_share(self, site: Site, operator: str) -> float:
        """Multiply-accumulates of an operator at a site, as a share of the teacher's."""
        if operator == KEEP or not site.macs:
            return site.macs_share
        block = deploy(self.pool[operator].start(self.teacher.module.get_submodule(site.path), site))
        h, w = (side // site.stride for side in self.config.size)
        return site.macs_share * count_macs(block, (h, w), site.in_channels) / site.macs

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
    def checked_networks(self) -> tuple[list[dict[str, str]], list[float]]:
        """Random assignments of the space, and their latencies in ms, measured whole and interleaved."""
        rng = np.random.default_rng(self.config.seed)
        drawn = [self._random_network(rng) for _ in range(self.config.device.check_networks)]
        with self._timed("profile"):
            key = {"profile": self._profile_key(()), "names": drawn, "samples": self.config.device.whole_samples}
            rows = self.store.json("profile/networks", key, lambda: self._measure_drawn(drawn))
        return [row["assignment"] for row in rows], [row["latency"]["median_ms"] for row in rows]

    def _random_network(self, rng: np.random.Generator) -> dict[str, str]:
        """An assignment that changes a random share of the sites, so that all latencies of the space occur."""
        share = rng.uniform()
        row = [int(rng.integers(len(names))) if rng.uniform() < share else 0 for names in self.space.options]
        return self.name_row(row)

    def _measure_drawn(self, drawn: list[dict[str, str]]) -> list[dict[str, Any]]:
        named = {str(number): assignment for number, assignment in enumerate(drawn)}
        timed = self.measure_assignments(named, self.config.device.whole_samples)
        for name, entry in timed.items():
            if isinstance(entry, Unsupported):
                # Many frozen norms together may diverge, and what does is compared with nothing.
                log.info("random network %s is left out of the latency check: %s", name, entry.reason)
        return [
            {"assignment": named[name], "latency": latency_row(entry)}
            for name, entry in timed.items()
            if not isinstance(entry, Unsupported)
        ]

    @cached_property
    def latency_model(self) -> LatencyModel:
        """The latency of any assignment: sums of blocks, corrected by the networks that were measured whole."""
        return fit(self.latency_table, self.sites, *self.checked_networks)

    @cached_property
    def additivity(self) -> AdditivityReport:
        """Sums of blocks, plain and corrected by the other networks, against the networks measured whole."""
        assignments, measured = self.checked_networks
        return additivity(
            [self.latency_table.additive_ms(assignment) for assignment in assignments],
            measured,
            left_out_ms(self.latency_table, self.sites, assignments, measured).tolist(),
        )

    def measure_assignments(
        self, assignments: Mapping[str, Assignment], samples: int
    ) -> dict[str, Latency | Unsupported]:
        """Students before fine-tuning, whole and in turns; a network that diverged is refused."""
        # Calibrated, or what is frozen in many places at once diverges.
        networks = {name: (self.student_of(assignment), assignment) for name, assignment in assignments.items()}
        return self._time_whole(networks, samples)
