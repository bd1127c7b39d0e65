"""Networks of any choice of operators, whole: what they cost, and whether their blocks' latencies add up to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from netgraft.assemble import Assignment, named_assignment
from netgraft.devices import Latency, Unsupported
from netgraft.errors import DeviceError
from netgraft.latency import AdditivityReport, LatencyTable, additivity
from netgraft.latency_model import LatencyModel, fit, left_out_ms
from netgraft.stages.latency import REFERENCE, Sessions, latency_from, latency_row
from netgraft.stages.transfer import TransferBench
from netgraft.stages.unlocked import unlocked

log = logging.getLogger(__name__)

TEACHER, NETWORKS = "teacher", "networks"
"""The teacher in the session of whole networks, and that session."""


class Bench(TransferBench):
    """One device of a run: from blocks and a few whole networks that are measured there to the latency of all."""

    def measure_assignments(
        self, assignments: Mapping[str, Assignment], samples: int
    ) -> dict[str, Latency | Unsupported]:
        """The teacher and students before fine-tuning, whole and in turns; a network that diverged is refused.

        Raises:
            DeviceError: the device refuses the teacher.
        """
        # Calibrated, or what is frozen in many places at once diverges.
        networks = {name: (self.stages.student_of(assignment), assignment) for name, assignment in assignments.items()}
        timed = self.time_whole({TEACHER: (self.stages.teacher.module, {}), **networks}, samples)
        if isinstance(refused := timed[TEACHER], Unsupported):
            raise DeviceError(f"the device does not run the teacher: {refused.reason}")
        return timed

    @unlocked
    def whole_session(self) -> tuple[dict[str, dict[str, str]], dict[str, Latency | Unsupported]]:
        """Random assignments by name, and what was measured of them, of the teacher and of the reference."""
        rng = np.random.default_rng(self.stages.config.seed)
        drawn = {str(number): self._random_network(rng) for number in range(self.stages.config.device.check_networks)}
        samples = self.stages.config.device.whole_samples
        key = {"profile": self.profile_key(()), "names": drawn, "samples": samples}

        def make() -> dict[str, Any]:
            return {name: latency_row(entry) for name, entry in self.measure_assignments(drawn, samples).items()}

        rows = self.stages.store.json(f"profile/{NETWORKS}", key, make)
        return drawn, {name: latency_from(row) for name, row in rows.items()}

    def _random_network(self, rng: np.random.Generator) -> dict[str, str]:
        """An assignment that changes a random share of the sites, so that all latencies of the space occur."""
        share, options = rng.uniform(), tuple(self.runnable.values())
        row = [int(rng.integers(len(names))) if rng.uniform() < share else 0 for names in options]
        return named_assignment(row, self.stages.open_sites, options)

    @unlocked
    def latency_table(self) -> LatencyTable:
        """What every operator costs at every site, and the teacher in the session that the table is checked in."""
        _, timed = self.whole_session
        return self.table_of(self.block_sessions, timed)

    def table_of(self, blocks: Sessions, whole: Mapping[str, Latency | Unsupported]) -> LatencyTable:
        """The table of the sessions of blocks and of the one of whole networks, the teacher among them."""
        teacher, sessions = whole[TEACHER], {**blocks, NETWORKS: whole}
        assert isinstance(teacher, Latency), "a session without it is refused"
        return LatencyTable(
            device=self.device.description.as_dict(),
            size=self.stages.config.size,
            protocol=self.protocol(self.stages.config.device.samples).as_dict(),
            site_keys={site.path: site.shape_key for site in self.stages.sites},
            entries={
                (shape, name): entry
                for shape, timed in blocks.items()
                for name, entry in timed.items()
                if name != REFERENCE
            },
            teacher=teacher,
            reference_ms={
                name: entry.median_ms
                for name, timed in sessions.items()
                if isinstance(entry := timed[REFERENCE], Latency)
            },
        )

    @unlocked
    def checked_networks(self) -> tuple[list[dict[str, str]], list[float]]:
        """Random assignments of what the device runs, and their latencies in ms, measured whole and interleaved."""
        drawn, timed = self.whole_session
        assignments, measured_ms = [], []
        for name, assignment in drawn.items():
            entry = timed[name]
            if isinstance(entry, Unsupported):
                # Many frozen norms together may diverge, and what does is compared with nothing.
                log.info("random network %s is left out of the latency check: %s", name, entry.reason)
            else:
                assignments.append(assignment)
                measured_ms.append(entry.median_ms)
        return assignments, measured_ms

    @unlocked
    def latency_model(self) -> LatencyModel:
        """The latency of any assignment: sums of blocks, corrected by the networks that were measured whole."""
        return fit(self.latency_table, self.stages.sites, *self.checked_networks)

    @unlocked
    def additivity(self) -> AdditivityReport:
        """Sums of blocks, plain and corrected by the other networks, against the networks measured whole."""
        assignments, measured = self.checked_networks
        return additivity(
            [self.latency_table.additive_ms(assignment) for assignment in assignments],
            measured,
            left_out_ms(self.latency_table, self.stages.sites, assignments, measured).tolist(),
        )
