"""The outcome of a run in a sentence and a few cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from netgraft.report.data import ImageRow, ReportData
from netgraft.report.markup import is_number, number, scaled, significant

RESAMPLES = 2000
"""Bootstrap resamples of the test images."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its uncertainty."""

    low: float
    value: float
    high: float


def speedup(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> Interval | None:
    """Teacher's over student's latency; the ends set the quartiles against each other, the cautious way."""
    before, after = teacher.get("latency_ms") or {}, student.get("latency_ms") or {}
    names = ("q25", "median", "q75")
    ends = [float(end) for part in (before, after) for name in names if is_number(end := part.get(name))]
    if len(ends) < 6 or min(ends) <= 0:
        return None
    low, median, high = ends[:3]
    return Interval(low / ends[5], median / ends[4], high / ends[3])


def loss_db(images: Sequence[ImageRow]) -> Interval | None:
    """Mean PSNR that the student loses per image, with a 95 % bootstrap interval over the images."""
    if len(images) < 2:
        return None
    losses = np.array([row.teacher_psnr_db - row.student_psnr_db for row in images])
    if not np.isfinite(losses).all():
        return None
    draws = np.random.default_rng(0).integers(0, len(losses), (RESAMPLES, len(losses)))
    low, high = np.quantile(losses[draws].mean(1), [0.025, 0.975])
    return Interval(float(low), float(losses.mean()), float(high))


def verdict(data: ReportData) -> str:
    """One paragraph that a person without context understands; HTML."""
    teacher, student = data.result.get("teacher") or {}, data.result.get("student") or {}
    if not student:
        return "This run has not chosen a student yet; what follows is what its stages found so far."
    return " ".join(
        filter(None, (_speeds(data, teacher, student), _quality(data, teacher, student), _gain(data, student)))
    )


def _speeds(data: ReportData, teacher: Mapping[str, Any], student: Mapping[str, Any]) -> str:
    """How fast the student is on the device, or on each of several."""
    devices = _devices(data)
    if not devices:
        return _speed(teacher, student)
    return " ".join(_speed(old, new, f"On <code>{name}</code> the student") for name, old, new in devices)


def _devices(data: ReportData) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Where there are several devices, the name of each, escaped, and teacher and student there."""
    rows = data.result.get("devices") or ()
    return [(escape(row["name"]), row["teacher"], row["student"]) for row in rows] if len(rows) > 1 else []


def _speed(teacher: Mapping[str, Any], student: Mapping[str, Any], subject: str = "The student") -> str:
    speed = speedup(teacher, student)
    if speed is None:
        return f"{subject}'s speed was not measured against the teacher's."
    before, after = teacher["latency_ms"]["median"], student["latency_ms"]["median"]
    times = f"{significant(before, 'ms')} → {significant(after, 'ms')}"
    if speed.value < 1:
        return f"{subject} is <b>{number(1 / speed.value, 2)} times slower</b> than the teacher ({times})."
    ends = f"quartiles {number(speed.low, 2)}–{number(speed.high, 2)}"
    return f"{subject} is <b>{number(speed.value, 2)} times as fast</b> as the teacher ({times}; {ends})."


def _quality(data: ReportData, teacher: Mapping[str, Any], student: Mapping[str, Any]) -> str:
    before, after = teacher.get("psnr_db"), student.get("psnr_db")
    if not (is_number(before) and is_number(after)):
        return ""
    lost = before - after
    scores = f"{number(before, 2)} → {number(after, 2, 'dB')} PSNR"
    interval = loss_db(data.images)
    if interval is not None:
        scores += (
            f"; 95&nbsp;% interval of the loss over {len(data.images)} images "
            f"{number(interval.low, 2)} to {number(interval.high, 2, 'dB')}"
        )
    verb = "It loses" if lost >= 0 else "It even gains"
    return f"{verb} <b>{number(abs(lost), 2, 'dB')}</b> of quality ({scores})."


def _gain(data: ReportData, student: Mapping[str, Any]) -> str:
    """How much of the restoration is left, which a small loss on a weak teacher would hide."""
    degraded = (data.result.get("degraded") or {}).get("psnr_db")
    best, reached = (data.result.get("teacher") or {}).get("psnr_db"), student.get("psnr_db")
    if not (is_number(degraded) and is_number(best) and is_number(reached)):
        return ""
    gained, possible = reached - degraded, best - degraded
    if possible <= 0:
        return "Mind that the teacher itself does not improve these images."
    if gained <= 0:
        return f"It is {number(-gained, 2, 'dB')} below the degraded images: do not use it."
    return (
        f"Against the degraded images it still gains {number(gained, 2, 'dB')}, "
        f"{number(100 * gained / possible, 0)}&nbsp;% of what the teacher gains."
    )


def cards(data: ReportData) -> str:
    """The headline figures; HTML."""
    teacher, student = data.result.get("teacher") or {}, data.result.get("student") or {}
    if not student:
        return ""
    found: list[tuple[str, str, str]] = []
    for name, old, new in _devices(data) or [("", teacher, student)]:
        speed = speedup(old, new)
        if speed is not None:
            note = f"{number(speed.low, 2)}–{number(speed.high, 2)} between quartiles"
            found.append((f"speed {name}".strip(), number(speed.value, 2) + "×", note))
    if is_number(teacher.get("psnr_db")) and is_number(student.get("psnr_db")):
        change = student["psnr_db"] - teacher["psnr_db"]
        found.append(("PSNR", number(change, 2, "dB", signed=True), f"to {number(student['psnr_db'], 2, 'dB')}"))
    for key, name, unit in (
        ("macs", "MACs", "MACs"),
        ("params", "parameters", ""),
        ("size_bytes", "file", "B"),
    ):
        before, after = teacher.get(key), student.get(key)
        if is_number(before) and is_number(after) and before:
            change = number(100 * (after / before - 1), 0, "%", signed=True)
            found.append((name, change, f"to {scaled(after, unit)}"))
    if is_number(student.get("parity_max_abs")):
        found.append(("fp32 export differs by", significant(student["parity_max_abs"]), "at most, of a range of 1"))
    return '<div class="cards">' + "".join(map(_card, found)) + "</div>" if found else ""


def _card(card: tuple[str, str, str]) -> str:
    name, value, note = card
    return f'<div class="card"><span>{name}</span><strong>{value}</strong><small>{note}</small></div>'
