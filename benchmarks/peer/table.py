"""The figures side by side, and who is on the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from netgraft.devices import Latency
from netgraft.evaluate import paired_interval
from netgraft.search.pareto import non_dominated
from peer.candidates import Candidate
from peer.workshop import TestSet, Workshop

TEACHERS = {"onnxruntime": "teacher", "openvino": "ov-teacher"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A candidate with all that is known of it."""

    name: str
    family: str
    runtime: str
    latency: Latency
    speedup: float
    """Times as fast as the teacher on the same runtime, by medians."""
    psnr_db: dict[str, float]
    """By test set, the mean over its images."""
    gain_db: dict[str, tuple[float, float, float]]
    """By test set, PSNR less the teacher's: the mean, and its 95 % bootstrap interval over images."""
    facts: dict[str, Any]


def rows_of(
    shop: Workshop, candidates: Sequence[Candidate], latencies: Mapping[str, Latency], sets: Sequence[TestSet]
) -> list[Row]:
    """One row a candidate, the slowest first, by runtime."""
    scored = {
        c.name: {images.label: shop.psnr_db(c.name, c.runtime, c.network().path, images) for images in sets}
        for c in candidates
    }
    rows = [
        Row(
            name=c.name,
            family=c.family,
            runtime=c.runtime,
            latency=latencies[c.name],
            speedup=latencies[TEACHERS[c.runtime]].median_ms / latencies[c.name].median_ms,
            psnr_db={label: float(np.mean(scores)) for label, scores in scored[c.name].items()},
            gain_db={label: _gain(scores, scored["teacher"][label]) for label, scores in scored[c.name].items()},
            facts=c.network().facts,
        )
        for c in candidates
    ]
    return sorted(rows, key=lambda row: (row.runtime, -row.latency.median_ms))


def _gain(mine: Sequence[float], teachers: Sequence[float]) -> tuple[float, float, float]:
    return (float(np.mean(mine) - np.mean(teachers)), *paired_interval(mine, teachers))


def joint_front(rows: Sequence[Row], label: str, runtime: str = "onnxruntime") -> list[str]:
    """Names of the candidates of a runtime that no other beats in both median latency and PSNR, the fastest first."""
    here = [row for row in rows if row.runtime == runtime]
    costs = np.array([[row.latency.median_ms, -row.psnr_db[label]] for row in here])
    best = [row for row, on_front in zip(here, non_dominated(costs), strict=True) if on_front]
    return [row.name for row in sorted(best, key=lambda row: row.latency.median_ms)]


def print_table(rows: Sequence[Row], label: str, degraded_db: float) -> None:
    """For a reader; a star marks the front of each runtime."""
    stars = {name for runtime in TEACHERS for name in joint_front(rows, label, runtime) if rows}
    table = Table(title=f"{label} test photographs, degraded {degraded_db:.2f} dB")
    columns = (
        "candidate",
        "family",
        "latency, ms",
        "times",
        "PSNR, dB",
        "against the teacher [95 %]",
        "GMACs",
        "CPU s",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:2] else "right")
    runtime = rows[0].runtime if rows else ""
    for row in rows:
        if row.runtime != runtime:
            table.add_section()
            runtime = row.runtime
        ms, (gain, low, high) = row.latency, row.gain_db[label]
        macs, seconds = row.facts.get("macs"), row.facts.get("cpu_seconds")
        table.add_row(
            f"{row.name}{' *' if row.name in stars else ''}",
            row.family,
            f"{ms.median_ms:.1f} [{ms.q25_ms:.1f}, {ms.q75_ms:.1f}]",
            f"{row.speedup:.2f}",
            f"{row.psnr_db[label]:.2f}",
            f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]",
            "" if macs is None else f"{macs / 1e9:.2f}",
            "" if seconds is None else f"{seconds:.0f}",
        )
    Console(width=150).print(table)
