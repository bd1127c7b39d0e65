"""What came of a run on each of its devices, and on all of them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from netgraft.delivered import file_names, latency_of, quality_of
from netgraft.nets.footprint import Footprint
from netgraft.search import non_dominated
from netgraft.stages import Run
from netgraft.stages.delivery import Delivery
from netgraft.stages.joint import LOSS
from netgraft.stages.whole import Bench

Rows = list[dict[str, Any]]


def network_row(delivery: Delivery, name: str) -> dict[str, Any]:
    """The teacher or the student, by name, as it is delivered for a device."""
    run = delivery.stages
    taken = Footprint.of(run.teacher.module if name == "teacher" else run.finetuned[0], run.config.size)
    row = {
        **quality_of(delivery.evaluations[name]),
        "latency_ms": latency_of(delivery.final_latency[name]),
        "macs": taken.macs,
        "params": taken.params,
        "size_bytes": delivery.delivered(name).size_bytes,
        "parity_max_abs": run.exports[name].parity_max_abs,
        "precision": delivery.precision.form,
        "files": file_names(delivery.delivered(name)),
    }
    if delivery.judged:
        single = quality_of(run.single_evaluations[name])
        row |= {f"fp32_{figure}": single[figure] for figure in ("psnr_db", "ssim")}
    return row


def device_row(delivery: Delivery, precision: Mapping[str, Any]) -> dict[str, Any]:
    """A device: teacher and student there, and its front; precision: as in ``result.json``."""
    teacher, student = (network_row(delivery, name) for name in ("teacher", "student"))
    front, left_out = device_front(delivery)
    if delivery.stages.several:
        # How far the student, computed by this device, is from PyTorch.
        student["difference_max_abs"] = delivery.parity.get("difference_max_abs")
    return {
        "name": delivery.bench.name,
        "description": delivery.device.description.as_dict(),
        "table": delivery.bench.table_file,
        "teacher": teacher,
        "student": student,
        "speedup": teacher["latency_ms"]["median"] / student["latency_ms"]["median"],
        "precision": dict(precision),
        "front": front,
        "front_left_out": left_out,
        "ceiling": dataclasses.asdict(delivery.stages.ceiling_on(delivery.bench)),
        "additivity": additivity_row(delivery.bench),
        "latency_model": delivery.bench.latency_model.as_dict(),
        "drift_percent": delivery.drift_percent,
    }


def additivity_row(bench: Bench) -> dict[str, Any]:
    """How well the latencies of a device's blocks add up."""
    found = dataclasses.asdict(bench.additivity)
    return {name: value for name, value in found.items() if name not in ("pairs", "corrected_ms")}


def device_front(delivery: Delivery) -> tuple[Rows, Rows]:
    """The front as it was measured, by latency; and what the search had on its front but is not shown as such, because
    only a prediction is known or another network was better in both once measured."""
    run, measured, left_out = delivery.stages, [], []
    for index in {*delivery.front, *delivery.front_latency}:
        predicted_ms = float(delivery.latency_ms[index])
        row = {
            "assignment": run.name_row(run.search.assignments[index].tolist()),
            "quality_loss_db": float(run.search.costs[index, LOSS]),
            "latency_ms": predicted_ms,
            "measured": False,
            "predicted_latency_ms": predicted_ms,
        }
        latency = delivery.front_latency.get(index)
        if latency is None:
            left_out.append(row)
        else:
            quartiles = {"latency_q25_ms": latency.q25_ms, "latency_q75_ms": latency.q75_ms}
            measured.append(row | {"latency_ms": latency.median_ms, "measured": True} | quartiles)
    return _split(measured, left_out, lambda row: (row["quality_loss_db"], row["latency_ms"]), "latency_ms")


def joint_front(run: Run) -> dict[str, Any]:
    """The networks that are shown on every device: the front of all devices together, in the form of a device's.

    ``slowest`` is the largest over the devices of a network's latency, as a share of the teacher's on the same device.
    """
    names = [delivery.bench.name for delivery in run.measured]
    measured: Rows = []
    left_out: Rows = []
    for index in run.search.front.tolist():
        measured_ms = joint_ms(run, index)
        latency_ms = run.latency_ms[index].tolist() if measured_ms is None else measured_ms
        row = {
            "assignment": run.name_row(run.search.assignments[index].tolist()),
            "quality_loss_db": float(run.search.costs[index, LOSS]),
            "slowest": float(run.latency[index]) if measured_ms is None else slowest(run, measured_ms),
            "latency_ms": dict(zip(names, latency_ms, strict=True)),
            "measured": measured_ms is not None,
            "predicted_latency_ms": dict(zip(names, run.latency_ms[index].tolist(), strict=True)),
        }
        (left_out if measured_ms is None else measured).append(row)

    def costs(row: Mapping[str, Any]) -> tuple[float, ...]:
        return (row["quality_loss_db"], *((row["slowest"],) if run.by_slowest else row["latency_ms"].values()))

    front, left_out = _split(measured, left_out, costs, "slowest")
    return {"by": run.config.search.joint, "devices": names, "front": front, "front_left_out": left_out}


def joint_ms(run: Run, index: int) -> list[float] | None:
    """A row of the search as it was measured on each device; None where it was not on all."""
    found = [delivery.front_latency.get(index) for delivery in run.measured]
    return None if None in found else [latency.median_ms for latency in found if latency is not None]


def slowest(run: Run, measured_ms: Sequence[float]) -> float:
    """The largest of the devices' latencies, each as a share of what was measured of the teacher there."""
    teachers = (delivery.latencies.get(delivery.device_precision, {}).get("teacher") for delivery in run.measured)
    ms = (
        predicted if teacher is None else teacher.median_ms
        for teacher, predicted in zip(teachers, run.teacher_ms.tolist(), strict=True)
    )
    return max(mine / its for mine, its in zip(measured_ms, ms, strict=True))


def _split(
    measured: Rows, left_out: Rows, costs: Callable[[Mapping[str, Any]], Sequence[float]], by: str
) -> tuple[Rows, Rows]:
    """The measured rows that no other beats in these costs, and all others, each sorted by a figure."""
    best = non_dominated(np.array([costs(row) for row in measured])).tolist() if measured else []
    front = [row for row, kept in zip(measured, best, strict=True) if kept]
    others = left_out + [row for row, kept in zip(measured, best, strict=True) if not kept]
    return sorted(front, key=lambda row: float(row[by])), sorted(others, key=lambda row: float(row[by]))
