"""Latencies of a device that is new: few probes on it, the rest from other devices' tables where these suffice."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from netgraft.devices import Latency, QueueDevice, Runnable, Unsupported
from netgraft.errors import ConfigError, StoreError
from netgraft.latency import LatencyTable
from netgraft.latency_transfer import Entry, Prediction, TransferModel, block_features, learn
from netgraft.operators import options_for
from netgraft.stages.latency import REFERENCE, BlockBench, Sessions, latency_from, latency_row
from netgraft.stages.unlocked import unlocked

QUARTILE = 0.6745
"""Standard deviations from the median to a quartile."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What came of the probes."""

    probes: Mapping[Entry, Latency | Unsupported]
    """What was measured."""
    reference: Latency | Unsupported
    """The reference block in their session."""
    prediction: Prediction | None
    """None where the device refuses a probe."""
    reason: str | None
    """Why everything is measured after all, in one line; None if the rest is predicted."""


class TransferBench(BlockBench):
    """Predicts the latencies of blocks where the config names other devices' tables, and measures them otherwise."""

    @unlocked
    def transfer(self) -> Transfer | None:
        """The prediction from the base tables; None where the config names none.

        Raises:
            ConfigError: a base table is for another size, or lacks an operator of this run.
            DeviceError: the base tables do not serve.
            StoreError: a base table cannot be read.
        """
        if not self.stages.config.device.base_tables:
            return None
        shapes = {site.shape_key: site for site in reversed(self.stages.sites)}
        features = {
            (shape, name): block_features(shapes[shape], name, footprint, self.stages.config.size)
            for (shape, name), footprint in self.stages.footprints.items()
        }
        base = [self._base_table(path) for path in self.stages.config.device.base_tables]
        model = learn(base, features)
        wanted = (*model.choose_probes(self.stages.config.device.probes), *model.left_out)
        key = {"profile": self.profile_key(()), "probes": wanted}
        rows = self.stages.store.json("profile/probes", key, lambda: self._measure_probes(wanted))
        timed = [latency_from(row) for row in rows]
        found = _judged(model, dict(zip(wanted, timed, strict=False)), timed[-1])
        if found.reason is not None:
            log.warning("the base tables do not tell this device's latencies, so all are measured: %s", found.reason)
        return found

    @unlocked
    def block_sessions(self) -> Sessions:
        """Every operator's latency at every shape of site, measured or predicted."""
        found = self.transfer
        if found is None or found.prediction is None or found.reason is not None:
            return super().block_sessions
        sessions: Sessions = {}
        for site in self.stages.sites:
            rows = sessions.setdefault(site.shape_key, {REFERENCE: found.reference})
            for name in options_for(site, self.stages.pool):
                entry = (site.shape_key, name)
                rows[name] = found.probes[entry] if entry in found.probes else _predicted(found.prediction, entry)
        return sessions

    def _base_table(self, path: Path) -> LatencyTable:
        """Another device's table, cut to this run's entries."""
        try:
            table = LatencyTable.from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path}: cannot be read as a latency table: {error}") from None
        except StoreError as error:
            raise StoreError(f"{path}: {error}") from None
        if table.size != self.stages.config.size:
            raise ConfigError(
                f"{path}: a base table for images of {table.size}, this run has {self.stages.config.size}"
            )
        for shape, name in self.stages.footprints:
            if (shape, name) not in table.entries:
                raise ConfigError(f"{path}: a base table without {name} at {shape}, which this run needs")
        return replace(
            table,
            entries={entry: table.entries[entry] for entry in self.stages.footprints},
            site_keys={site.path: site.shape_key for site in self.stages.sites},
        )

    def _measure_probes(self, wanted: tuple[Entry, ...]) -> list[dict[str, Any]]:
        """What was measured of each, and of the reference behind them, in one session."""
        sites = {site.shape_key: site for site in reversed(self.stages.sites)}
        entries = {f"{name} at {shape}": (shape, name) for shape, name in wanted}
        modules = {label: self._blocks(sites[shape], (name,))[name] for label, (shape, name) in entries.items()}
        if isinstance(self.device, QueueDevice):
            self.device.announce(list(modules.values()))

        def compile_one(label: str, module: nn.Module, _: object) -> Runnable | Unsupported:
            shape, name = entries[label]
            return self._compile_block(sites[shape], name, module)

        self.progress("profile", 0, len(wanted))
        timed = self._time(modules, self.stages.config.device.samples, compile_one)
        return [latency_row(timed[label]) for label in (*entries, REFERENCE)]


def _judged(
    model: TransferModel, probes: Mapping[Entry, Latency | Unsupported], reference: Latency | Unsupported
) -> Transfer:
    # What a base device refuses was measured too, but the model does not know it.
    known = {entry: row for entry, row in probes.items() if entry in model.entries}
    for (shape, name), row in known.items():
        if isinstance(row, Unsupported):
            reason = f"the device refuses {name} at {shape} ({row.reason}), and what it refuses cannot be foreseen"
            return Transfer(probes=probes, reference=reference, prediction=None, reason=reason)
        if row.median_ms <= 0:
            reason = f"the device takes no time for {name} at {shape}, which the base devices do"
            return Transfer(probes=probes, reference=reference, prediction=None, reason=reason)
    found = model.predict({entry: row.median_ms for entry, row in known.items() if isinstance(row, Latency)})
    return Transfer(probes=probes, reference=reference, prediction=found, reason=found.reason)


def _predicted(prediction: Prediction, entry: Entry) -> Latency:
    median, spread = prediction.median_ms[entry], math.exp(QUARTILE * prediction.log_sd[entry])
    return Latency(
        median_ms=median,
        q25_ms=median / spread,
        q75_ms=median * spread,
        cpu_median_ms=median,
        runs=0,
        contended=0.0,
    )


def transfer_figures(found: Transfer | None) -> dict[str, Any] | None:
    """What came of the probes, as plain data."""
    if found is None:
        return None
    told: dict[str, Any] = {"probes": len(found.probes), "predicted": found.reason is None, "reason": found.reason}
    if found.prediction is not None:
        names = ("left_out_error_percent", "left_out_spearman", "misfit", "expected_spearman")
        told |= {name: getattr(found.prediction, name) for name in names}
    return told
