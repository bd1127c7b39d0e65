"""The figures of a finished run: ``result.json``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from netgraft.delivered import precision, quality_of
from netgraft.nets.footprint import Footprint
from netgraft.search.constraints import ROUNDING
from netgraft.stages import Run
from netgraft.stages.joint import LOSS
from netgraft.stages.space import COUNTS
from netgraft.summary.devices import additivity_row, device_front, device_row, joint_front, network_row
from netgraft.summary.protocol import protocol
from netgraft.summary.warnings import all_warnings

SCHEMA = 1
PACKAGES = ("netgraft", "torch", "onnxruntime", "onnx", "botorch", "numpy")


def versions() -> dict[str, str]:
    """Versions of what the figures depend on, by distribution."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # netgraft itself, run from its source tree.
            found[name] = "not installed"
    return found


def result(run: Run) -> dict[str, Any]:
    """The figures of a run, in the schema of ``result.json``; where there is room for one device, the first one's."""
    first, *_ = run.measured
    precisions = {delivery.bench.name: precision(delivery) for delivery in run.measured}
    figures: dict[str, Any] = {"schema": SCHEMA}
    figures |= {name: network_row(first, name) for name in ("teacher", "student")}
    figures["precision"] = precisions[first.bench.name]
    figures["student"]["assignment"] = run.assignment
    figures["student"]["limits"] = limits = _limits(run, figures["student"])
    figures["degraded"] = quality_of(first.evaluations["degraded"])
    figures["front"], figures["front_left_out"] = device_front(first)
    figures["ceiling"] = dataclasses.asdict(run.ceiling)
    figures["device"] = first.device.description.as_dict()
    figures["devices"] = [device_row(delivery, precisions[delivery.bench.name]) for delivery in run.measured]
    if run.several:
        figures["joint"] = joint_front(run)
    if run.generalization is not None:
        figures["generalization"] = run.generalization.as_dict()
    figures["protocol"] = protocol(run)
    figures["additivity"] = additivity_row(first.bench)
    figures["drift_percent"] = first.drift_percent
    figures["warnings"] = all_warnings(run, precisions, limits)
    figures["latency_model"] = first.bench.latency_model.as_dict()
    figures["versions"] = versions()
    figures["seconds"] = run.seconds
    return {name: _without_infinities(entry) for name, entry in figures.items()}


def _limits(run: Run, student: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The limits that were set: what is allowed, what the search went by, and what is delivered.

    Delivered are the measured latency, the counts and the exported file. The PSNR on the validation crops is that
    before fine-tuning, both times.
    """
    chosen = run.chosen["chosen"]
    loss_db, latency_ms = run.search.costs[chosen, LOSS].item(), run.latency_ms[chosen].tolist()
    taken = Footprint.of(run.finetuned[0], run.config.size)
    measured = (delivery.final_latency["student"].median_ms for delivery in run.measured)
    found = {
        **dict(zip(run.latency_limits, zip(latency_ms, measured, strict=True), strict=True)),
        "min_psnr_db": (run.teacher_validation_db - loss_db,) * 2,
        **{name: (getattr(taken, count), student[count]) for name, count in COUNTS.items()},
    }
    rows = {}
    for limit in run.limits:
        searched, delivered = found[limit.name]
        allowed = run.config.search.min_psnr_db if limit.name == "min_psnr_db" else limit.limit
        assert allowed is not None, "it was set"
        excess = allowed - delivered if limit.name == "min_psnr_db" else delivered - allowed
        met = excess <= ROUNDING * allowed
        rows[limit.name] = {"limit": allowed, "searched": searched, "delivered": delivered, "met": met}
    return rows


def _without_infinities(value: Any) -> Any:
    """JSON knows neither NaN (a rank correlation of equal values) nor infinity (the PSNR of equal images)."""
    if isinstance(value, dict):
        return {name: _without_infinities(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
