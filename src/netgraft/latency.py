"""What every block costs on a device, and how far the sum of blocks is from the whole network.

Sites of the same shape share one measurement for each operator. The latency of a whole network is predicted
as what its blocks cost plus what the teacher costs outside of its sites; :func:`additivity` says how well
that holds. :mod:`netgraft.latency_model` corrects it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netgraft.devices.device import DeviceDescription, Unsupported
from netgraft.devices.measure import Latency
from netgraft.errors import ConfigError, DeviceError, StoreError
from netgraft.names import lookup
from netgraft.sites import KEEP

SCHEMA = 1
RESAMPLES = 1000
"""Bootstrap resamples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """The latency of every operator at every site, on one device, at one image size.

    Raises:
        ConfigError: a site's own block was not measured.
        DeviceError: a site's own block is unsupported.
    """

    device: Mapping[str, str | int]
    """The device's description, as plain data."""
    size: tuple[int, int]
    """Height and width of the image, in pixels."""
    protocol: Mapping[str, float | int]
    """How the latencies were measured, as plain data."""
    site_keys: Mapping[str, str]
    """The shape key of each site, by site path, in data-flow order."""
    entries: Mapping[tuple[str, str], Latency | Unsupported]
    """What was measured, by (shape key, operator)."""
    teacher: Latency
    """The whole teacher."""
    reference_ms: Mapping[str, float] = field(default_factory=dict)
    """Median of one and the same block by session: equal in all, had the machine not changed in between."""
    rest_ms: float = field(init=False)
    """Teacher minus the sum of its blocks: the rest of it, and what timing blocks alone gets wrong."""

    def __post_init__(self) -> None:
        blocks_ms = 0.0
        for path in self.site_keys:
            entry = self.entry(path, KEEP)
            if isinstance(entry, Unsupported):
                raise DeviceError(f"the device does not run the teacher's own block at {path}: {entry.reason}")
            blocks_ms += entry.median_ms
        object.__setattr__(self, "rest_ms", self.teacher.median_ms - blocks_ms)

    def entry(self, path: str, operator: str) -> Latency | Unsupported:
        """What was measured for an operator at a site.

        Raises:
            ConfigError: there is no such site, or the operator was not measured there.
        """
        key = lookup("site", path, self.site_keys)
        here = {name: entry for (shape, name), entry in self.entries.items() if shape == key}
        return lookup(f"operator at {path}", operator, here)

    def operator_ms(self, path: str, operator: str) -> float:
        """Median latency of an operator at a site; infinite where the device does not support it."""
        entry = self.entry(path, operator)
        return entry.median_ms if isinstance(entry, Latency) else float("inf")

    def additive_ms(self, assignment: Mapping[str, str]) -> float:
        """Predicted latency of the network with these operators, by site path; other sites keep their block.

        Infinite if one of the operators is unsupported.
        """
        chosen = dict.fromkeys(self.site_keys, KEEP) | dict(assignment)
        return self.rest_ms + sum(self.operator_ms(path, operator) for path, operator in chosen.items())

    def option_ms(self, options: Mapping[str, Sequence[str]]) -> NDArray[np.float64]:
        """The latencies of the options that a search chooses from, (S, K).

        options: for each of the S sites that take part its operators, the most of them K. Infinite where an
        operator is unsupported, and to the right of the last option of a site that has fewer than K.
        """
        table = np.full((len(options), max(map(len, options.values()), default=0)), np.inf)
        for row, (path, operators) in zip(table, options.items(), strict=True):
            row[: len(operators)] = [self.operator_ms(path, operator) for operator in operators]
        return table

    def additive_batch_ms(
        self, options: Mapping[str, Sequence[str]], assignments: NDArray[np.integer[Any]]
    ) -> NDArray[np.float64]:
        """Predicted latencies, (n,), of assignments (n, S) that hold indices into each site's options."""
        table = self.option_ms(options)
        chosen: NDArray[np.float64] = table[np.arange(len(options)), assignments].sum(axis=1)
        return self.fixed_ms(tuple(options)) + chosen

    def fixed_ms(self, paths: Sequence[str]) -> float:
        """What the network costs outside of these sites: the rest, and the sites that keep their block."""
        return self.rest_ms + sum(self.operator_ms(path, KEEP) for path in self.site_keys if path not in paths)

    def stale(self, device: DeviceDescription, size: tuple[int, int], site_keys: Mapping[str, str]) -> str | None:
        """Why this table does not hold for a device, image size and network, in one line; None if it does."""
        now = device.as_dict()
        for name in sorted(now.keys() | self.device.keys()):
            if now.get(name) != self.device.get(name):
                return f"it was measured with {name} {self.device.get(name)!r}, now it is {now.get(name)!r}"
        if tuple(size) != self.size:
            return f"it was measured at {_by(self.size)} pixels, now the size is {_by(size)}"
        for path, key in site_keys.items():
            if self.site_keys.get(path) != key:
                return f"it knows site {path} as {self.site_keys.get(path)!r}, the network has {key!r} there"
        missing = [path for path in self.site_keys if path not in site_keys]
        return f"the network has no site {missing[0]}" if missing else None

    def check(self, device: DeviceDescription, size: tuple[int, int], site_keys: Mapping[str, str]) -> None:
        """Refuse to serve a device, image size or network that the table was not measured for.

        Raises:
            DeviceError: the table is stale; the message says why.
        """
        reason = self.stale(device, size, site_keys)
        if reason is not None:
            raise DeviceError(f"this latency table is stale: {reason}; measure again")

    def to_json(self) -> str:
        """The table as a portable document."""
        rows = [
            {"shape_key": key, "operator": operator} | _entry_to_plain(entry)
            for (key, operator), entry in self.entries.items()
        ]
        document = {
            "schema": SCHEMA,
            "device": dict(self.device),
            "size": list(self.size),
            "protocol": dict(self.protocol),
            "site_keys": dict(self.site_keys),
            "teacher": asdict(self.teacher),
            "reference_ms": dict(self.reference_ms),
            "entries": rows,
        }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LatencyTable:
        """Read what :meth:`to_json` wrote.

        Raises:
            StoreError: the text is no latency table, or of another schema.
        """
        try:
            document = json.loads(text)
            schema = document["schema"]
            if schema != SCHEMA:
                raise StoreError(f"this latency table has schema {schema}, not {SCHEMA}: measure again")
            height, width = document["size"]
            return cls(
                device=document["device"],
                size=(height, width),
                protocol=document["protocol"],
                site_keys=document["site_keys"],
                entries={(row["shape_key"], row["operator"]): _entry_from_plain(row) for row in document["entries"]},
                teacher=Latency(**document["teacher"]),
                # Tables of the first versions have none.
                reference_ms=document.get("reference_ms", {}),
            )
        except (ValueError, KeyError, TypeError, ConfigError, DeviceError) as error:
            kind = type(error).__name__
            raise StoreError(f"this is no latency table ({kind}: {error}): measure again") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditivityReport:
    """How well predicted latencies agree with measured ones; intervals are 95 % bootstrap intervals over networks."""

    pairs: tuple[tuple[float, float], ...]
    """(predicted_ms, measured_ms) of each network, the prediction being the plain sum."""
    corrected_ms: tuple[float, ...]
    """Corrected prediction of each network, by a correction that was not fitted to it."""
    mape_percent: float
    """Mean absolute error of the plain sums, in percent of what was measured."""
    mape_interval: tuple[float, float]
    spearman: float
    """Rank correlation of the plain sums, -1 to 1; NaN if all predictions or all measurements are equal."""
    spearman_interval: tuple[float, float]
    corrected_mape_percent: float
    """Mean absolute error of the corrected predictions."""
    corrected_mape_interval: tuple[float, float]
    corrected_spearman: float
    """Rank correlation of the corrected predictions."""
    corrected_spearman_interval: tuple[float, float]


def additivity(
    predicted_ms: Sequence[float], measured_ms: Sequence[float], corrected_ms: Sequence[float]
) -> AdditivityReport:
    """Compare plain and corrected predictions with measurements of the same networks.

    corrected_ms: each by a correction that was not fitted to this network.

    Raises:
        DeviceError: there are fewer than three networks, or not as many predictions as measurements.
    """
    predicted, measured, corrected = (
        np.asarray(values, np.float64) for values in (predicted_ms, measured_ms, corrected_ms)
    )
    if len(predicted) < 3 or not predicted.shape == measured.shape == corrected.shape:
        raise DeviceError(
            f"additivity needs predictions and measurements of at least 3 networks: "
            f"it got {len(predicted)}, {len(corrected)} corrected, and {len(measured)} measured"
        )
    raw, after = agreement(predicted, measured), agreement(corrected, measured)
    return AdditivityReport(
        pairs=tuple(zip(predicted.tolist(), measured.tolist(), strict=True)),
        corrected_ms=tuple(corrected.tolist()),
        mape_percent=raw.mape_percent,
        mape_interval=raw.mape_interval,
        spearman=raw.spearman,
        spearman_interval=raw.spearman_interval,
        corrected_mape_percent=after.mape_percent,
        corrected_mape_interval=after.mape_interval,
        corrected_spearman=after.spearman,
        corrected_spearman_interval=after.spearman_interval,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Predictions against measurements, with 95 % bootstrap intervals over networks."""

    mape_percent: float
    """Mean absolute error in percent of what was measured."""
    mape_interval: tuple[float, float]
    spearman: float
    """Rank correlation, -1 to 1; NaN if all predictions or all measurements are equal."""
    spearman_interval: tuple[float, float]


def agreement(
    predicted: NDArray[np.float64], measured: NDArray[np.float64], *, resamples: int = RESAMPLES
) -> Agreement:
    """How well predictions (n,) agree with measurements (n,)."""
    errors = 100 * np.abs(predicted - measured) / measured
    draws = np.random.default_rng(0).integers(0, len(errors), (resamples, len(errors)))
    ranked = np.array([_rank_correlation(predicted[draw], measured[draw]) for draw in draws])
    ranked = ranked[np.isfinite(ranked)]
    return Agreement(
        mape_percent=float(errors.mean()),
        mape_interval=_middle(errors[draws].mean(axis=1)),
        spearman=_rank_correlation(predicted, measured),
        spearman_interval=_middle(ranked) if len(ranked) else (float("nan"), float("nan")),
    )


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; equal values share their average rank."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    below = (x[None, :] < x[:, None]).sum(1)
    equal = (x[None, :] == x[:, None]).sum(1)
    ranks: NDArray[np.float64] = below + (equal + 1) / 2
    return ranks


def _entry_to_plain(entry: Latency | Unsupported) -> dict[str, Any]:
    if isinstance(entry, Unsupported):
        return {"unsupported": entry.reason}
    return {"latency": asdict(entry)} | ({"predicted": True} if entry.predicted else {})


def _entry_from_plain(row: Mapping[str, Any]) -> Latency | Unsupported:
    return Unsupported(row["unsupported"]) if "unsupported" in row else Latency(**row["latency"])


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
