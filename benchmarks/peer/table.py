"""The figures side by side: who is on the front, and which peer beats the refit where."""

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
OURS = ("netgraft", "netgraft, then int8", "teacher")
"""Families that are ours, or the network that everything starts from: they are not peers."""
COLUMNS = (
    "candidate",
    "family",
    "latency, ms",
    "times as fast",
    "PSNR, dB",
    "less the teacher's [95 %]",
    "less netgraft's [95 %]",
    "GMACs",
    "CPU s",
)

Gap = tuple[float, float, float]
"""A mean difference in dB and its 95 % bootstrap interval over images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A candidate with all that is known of it."""

    name: str
    family: str
    runtime: str
    latency: Latency
    speedup: float
    """Times as fast as the teacher on the same runtime, by medians."""
    psnr_db: dict[str, list[float]]
    """By test set, one value an image."""
    facts: dict[str, Any]

    def mean_db(self, label: str) -> float:
        """Mean over the images of a test set."""
        return float(np.mean(self.psnr_db[label]))

    def less(self, other: Row, label: str) -> Gap:
        """This candidate's PSNR less another's on the same images."""
        mine, theirs = self.psnr_db[label], other.psnr_db[label]
        return (float(np.mean(mine) - np.mean(theirs)), *paired_interval(mine, theirs))


def rows_of(
    shop: Workshop, candidates: Sequence[Candidate], latencies: Mapping[str, Latency], sets: Sequence[TestSet]
) -> list[Row]:
    """One row a candidate, by runtime, the slowest first."""
    rows = []
    for candidate in candidates:
        name, runtime, network = candidate.name, candidate.runtime, candidate.network()
        rows.append(
            Row(
                name=name,
                family=candidate.family,
                runtime=runtime,
                latency=latencies[name],
                speedup=latencies[TEACHERS[runtime]].median_ms / latencies[name].median_ms,
                psnr_db={images.label: shop.psnr_db(name, runtime, network.path, images) for images in sets},
                facts=network.facts,
            )
        )
    return sorted(rows, key=lambda row: (row.runtime, -row.latency.median_ms))


def teacher_of(rows: Sequence[Row], runtime: str) -> Row:
    """The row that the others of a runtime are compared with."""
    return next(row for row in rows if row.name == TEACHERS[runtime])


def joint_front(rows: Sequence[Row], label: str, runtime: str) -> list[str]:
    """Names of the candidates of a runtime that no other beats in both median latency and PSNR, the fastest first."""
    here = [row for row in rows if row.runtime == runtime]
    if not here:
        return []
    costs = np.array([[row.latency.median_ms, -row.mean_db(label)] for row in here])
    best = [row for row, on_front in zip(here, non_dominated(costs), strict=True) if on_front]
    return [row.name for row in sorted(best, key=lambda row: row.latency.median_ms)]


def rival(row: Row, rows: Sequence[Row], label: str) -> Row | None:
    """The best of our networks that is no slower than a peer; None where the peer is faster than all of them."""
    able = [
        other
        for other in rows
        if other.family == "netgraft"
        and other.runtime == row.runtime
        and other.latency.median_ms <= row.latency.median_ms
    ]
    return max(able, key=lambda other: other.mean_db(label), default=None)


def cells(row: Row, rows: Sequence[Row], label: str) -> list[str]:
    """A row of the table, under :data:`COLUMNS`; a star marks the front."""
    ms, macs, seconds = row.latency, row.facts.get("macs"), row.facts.get("cpu_seconds")
    better = None if row.family in OURS else rival(row, rows, label)
    faster = "" if row.family in OURS else "faster than all of ours"
    return [
        f"{row.name}{' *' if row.name in joint_front(rows, label, row.runtime) else ''}",
        row.family,
        f"{ms.median_ms:.1f} [{ms.q25_ms:.1f}, {ms.q75_ms:.1f}]",
        f"{row.speedup:.2f}",
        f"{row.mean_db(label):.2f}",
        _gap(row.less(teacher_of(rows, row.runtime), label)),
        faster if better is None else f"{_gap(row.less(better, label))} {better.name}",
        "" if macs is None else f"{macs / 1e9:.2f}",
        "" if seconds is None else f"{seconds:.0f}",
    ]


def _gap(gap: Gap) -> str:
    return f"{gap[0]:+.2f} [{gap[1]:+.2f}, {gap[2]:+.2f}]"


def print_table(rows: Sequence[Row], label: str, degraded_db: float) -> None:
    """For a reader at a terminal."""
    table = Table(title=f"{label} test photographs, degraded {degraded_db:.2f} dB; * on the front of its runtime")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right")
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(*cells(row, rows, label), end_section=after is not None and after.runtime != row.runtime)
    Console(width=175).print(table)


def markdown(rows: Sequence[Row], label: str) -> str:
    """The same for a document."""
    lines = [COLUMNS, ["---", "---", *["---:"] * (len(COLUMNS) - 2)], *(cells(row, rows, label) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
