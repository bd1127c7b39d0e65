"""The sections of a report on latency against quality: each device's figures, its front, and that of all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from netgraft.devices import MIXED
from netgraft.report import figures
from netgraft.report.data import EvaluationRow, ReportData
from netgraft.report.markup import figure, latency, number, section, significant, table, words


def devices(data: ReportData) -> str:
    """Teacher and student on each device, where there are several."""
    found: Sequence[Mapping[str, Any]] = data.result.get("devices") or ()
    if len(found) < 2:
        return ""
    rows = []
    for row in found:
        teacher, student, hardware = row["teacher"], row["student"], row["description"]["hardware"]
        rows.append(
            [
                f"<code>{escape(row['name'])}</code><br><small>{escape(str(hardware))}</small>",
                latency(teacher),
                latency(student),
                f"<b>{number(row['speedup'], 2)}×</b>",
                f"{number(teacher['psnr_db'], 2)} → {number(student['psnr_db'], 2, 'dB')}",
                significant(student.get("difference_max_abs")),
                f"{escape(student['precision'])}<br><small>{escape(student['files'][0])}</small>",
            ]
        )
    head = ["device", "teacher [quartiles]", "student", "speed", "PSNR", "off by", "delivered"]
    lead = (
        "One student for all devices. Each timed it in turns with the teacher, in the form that is delivered there; "
        "milliseconds of different machines do not compare, shares of the teacher's latency do. Off by: the student's "
        "largest difference to PyTorch, in images in [0, 1]."
    )
    return section("devices", "Devices", lead, table(head, rows))


def front(data: ReportData) -> str:
    """Every assignment that was evaluated."""
    if not data.evaluations:
        return ""
    measured = sum(row.measured_latency_ms is not None for row in data.evaluations)
    lead = (
        "Left is faster, down is better: the line joins the measured networks that no other beats in both, "
        "bars are quartiles, pale points are predictions, and hovering over a point shows what it replaces."
    )
    note = f"{len(data.evaluations)} assignments evaluated, {measured} of them timed end to end on the device."
    device = (data.result.get("precision") or {}).get("device", "fp32")
    if device != "fp32":
        judged = "by PyTorch, with the same rounding" if device == MIXED else "those of the same in fp32"
        note += f" Latencies are those of {escape(device)} networks, quality losses {judged}."
    if data.joint:
        return section("front", "The trade-off", lead, _joint(data), *_each_device(data))
    head = ["point", "quality loss", "predicted", "measured", "sites replaced"]
    rows = [
        [
            *_point(names, row),
            significant(row.latency_ms, "ms"),
            significant(row.measured_latency_ms, "ms"),
            _count(row),
        ]
        for names, row in _named(data, data.evaluations)
    ]
    return section(
        "front",
        "The trade-off",
        lead,
        figure("front", figures.front(data, data.evaluations)),
        table(head, rows) if rows else "",
        f'<p class="note">{note}</p>',
    )


def _joint(data: ReportData) -> str:
    """All devices together."""
    head = ["point", "quality loss", "slowest, of the teacher's", *map(escape, data.devices), "sites replaced"]
    rows = []
    for index, names in data.named_points().items():
        row = data.joint[index]
        each = (significant(_latency_of(known[index]), "ms") for known in data.devices.values())
        rows.append([*_point(names, row), number(_latency_of(row), 1, "%"), *each, _count(row)])
    plot = figure("front", figures.front(data, data.joint, "slowest device's share of the teacher's latency", "%"))
    note = (
        f"{len(data.joint)} assignments evaluated, their quality once for all devices. Of each network the largest "
        "of its latencies counts, as a share of the teacher's on the same device."
    )
    return f'<h3>All devices together</h3>{plot}{table(head, rows)}<p class="note">{note}</p>'


def _each_device(data: ReportData) -> list[str]:
    """The front on each device, from the same evaluations."""
    parts = []
    precisions = {row["name"]: row["precision"]["device"] for row in data.result.get("devices") or ()}
    for number_, (name, rows) in enumerate(data.devices.items(), start=1):
        measured = sum(row.measured_latency_ms is not None for row in rows)
        note = f"{measured} of the networks timed end to end on {escape(name)}"
        if (precision := precisions.get(name, "fp32")) != "fp32":
            note += f", as {escape(precision)} networks; quality losses are those of the same in fp32"
        plot = figure(f"front-{number_}", figures.front(data, rows, f"latency on {escape(name)}"))
        parts.append(f'<h3><code>{escape(name)}</code></h3>{plot}<p class="note">{note}.</p>')
    return parts


def _named(data: ReportData, rows: Sequence[EvaluationRow]) -> list[tuple[list[str], EvaluationRow]]:
    return [(names, rows[index]) for index, names in data.named_points().items()]


def _point(names: Sequence[str], row: EvaluationRow) -> tuple[str, str]:
    return escape(", ".join(map(words, names))), number(row.quality_loss_db, 3, "dB")


def _count(row: EvaluationRow) -> str:
    return str(sum(option != 0 for option in row.assignment))


def _latency_of(row: EvaluationRow) -> float:
    return row.latency_ms if row.measured_latency_ms is None else row.measured_latency_ms
