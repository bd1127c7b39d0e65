"""What a finished run says: ``result.json``, and the data of its report."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import metadata
from typing import Any

import numpy as np

from netgraft.data.images import ImagePair
from netgraft.delivered import (
    file_names,
    form_names,
    judged_form,
    latency_of,
    precision,
    precision_protocol,
    precision_warning,
    quality_of,
)
from netgraft.devices import DRIFT_PERCENT, Latency
from netgraft.evaluate import PROTOCOL, eight_bits
from netgraft.imaging import RgbImage, psnr_db
from netgraft.nets.footprint import Footprint
from netgraft.report import (
    AdditivityCheck,
    Crop,
    EvaluationRow,
    FinetuneRow,
    ForeseenRow,
    ImageRow,
    LatencyRow,
    RefusedRow,
    ReportData,
    SiteRow,
)
from netgraft.restore import OVERLAP, Restorer
from netgraft.search import non_dominated
from netgraft.search.constraints import ROUNDING
from netgraft.sites import KEEP
from netgraft.stages import Run
from netgraft.stages.judge import LATENCY, LOSS
from netgraft.stages.run import SHIPPED
from netgraft.stages.space import COUNTS
from netgraft.stages.transfer import Transfer

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
    """The figures of a run, in the schema of ``result.json``."""
    student_module, _ = run.finetuned
    modules = {"teacher": run.teacher.module, "student": student_module}
    figures: dict[str, Any] = {"schema": SCHEMA}
    for name, module in modules.items():
        taken = Footprint.of(module, run.config.size)
        figures[name] = {
            **quality_of(run.evaluations[name]),
            "latency_ms": latency_of(run.final_latency[name]),
            "macs": taken.macs,
            "params": taken.params,
            "size_bytes": run.delivered(name).size_bytes,
            "parity_max_abs": run.exports[name].parity_max_abs,
            "precision": run.precision.form,
            "files": file_names(run.delivered(name)),
        }
        if run.judged:
            single = quality_of(run.single_evaluations[name])
            figures[name] |= {f"fp32_{figure}": single[figure] for figure in ("psnr_db", "ssim")}
    figures["precision"] = precision(run)
    figures["student"]["assignment"] = run.assignment
    figures["student"]["limits"] = limits = _limits(run, figures["student"])
    figures["degraded"] = quality_of(run.evaluations["degraded"])
    figures["front"], figures["front_left_out"] = _front(run)
    figures["ceiling"] = dataclasses.asdict(run.ceiling)
    figures["device"] = run.device.description.as_dict()
    figures["protocol"] = protocol(run)
    figures["additivity"] = {
        name: value
        for name, value in dataclasses.asdict(run.additivity).items()
        if name not in ("pairs", "corrected_ms")
    }
    figures["drift_percent"] = run.drift_percent
    figures["warnings"] = [
        *warnings_of(figures["precision"], run.drift_percent),
        *filter(None, [run.choice_warning, transfer_warning(run.transfer)]),
        *limit_warnings(limits),
    ]
    figures["latency_model"] = run.latency_model.as_dict()
    figures["versions"] = versions()
    figures["seconds"] = run.seconds
    return {name: _without_infinities(entry) for name, entry in figures.items()}


def _limits(run: Run, student: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The limits that were set: what is allowed, what the search went by, and what is delivered.

    Delivered are the measured latency, the counts and the exported file. The PSNR on the validation crops is that
    before fine-tuning, both times.
    """
    loss_db, latency_ms = run.search.costs[run.chosen["chosen"]][[LOSS, LATENCY]].tolist()
    taken = Footprint.of(run.finetuned[0], run.config.size)
    found = {
        "max_latency_ms": (latency_ms, student["latency_ms"]["median"]),
        "min_psnr_db": (run.teacher_validation_db - loss_db,) * 2,
        **{name: (getattr(taken, count), student[count]) for name, count in COUNTS.items()},
    }
    rows = {}
    for limit in run.limits:
        searched, delivered = found[limit.name]
        allowed = getattr(run.config.search, limit.name)
        excess = allowed - delivered if limit.name == "min_psnr_db" else delivered - allowed
        met = excess <= ROUNDING * allowed
        rows[limit.name] = {"limit": allowed, "searched": searched, "delivered": delivered, "met": met}
    return rows


def limit_warnings(limits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Limits that the search kept to and the student as it is delivered does not."""
    return [
        f"{name} = {row['limit']:g} was met in the search ({row['searched']:.6g}), but not by the student as delivered "
        f"({row['delivered']:.6g}): set a lower limit to leave room."
        for name, row in limits.items()
        if not row["met"]
    ]


def warnings_of(precision: Mapping[str, Any], drift: Mapping[str, float]) -> list[str]:
    """What a reader must know before trusting a run's figures; precision: as in ``result.json``."""
    return [warning for warning in (precision_warning(precision), drift_warning(drift)) if warning]


def _without_infinities(value: Any) -> Any:
    """JSON knows neither NaN (a rank correlation of equal values) nor infinity (the PSNR of equal images)."""
    if isinstance(value, dict):
        return {name: _without_infinities(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def drift_warning(percent: Mapping[str, float]) -> str | None:
    """What is wrong with timing sessions, given how much slower than the middle one each was; None if all compare."""
    apart = [f"{name} {value:+.0f}\N{NO-BREAK SPACE}%" for name, value in percent.items() if abs(value) > DRIFT_PERCENT]
    if not apart:
        return None
    return (
        f"The machine changed its speed between timing sessions, by what one block took in each: {', '.join(apart)} "
        "against the middle one. Latencies of these do not compare with others: delete artifacts/profile and "
        "artifacts/measure in the run folder, and run again when the machine is quiet."
    )


def transfer_warning(transfer: Transfer | None) -> str | None:
    """That latencies were predicted, or that they were to be and were not; None if all are measured as usual."""
    if transfer is None:
        return None
    if transfer.reason is not None or transfer.prediction is None:
        return f"The base tables did not serve this device, so all of its blocks were measured: {transfer.reason}."
    return (
        f"Latencies of blocks were predicted from other devices' tables and {len(transfer.probes)} blocks that were "
        f"measured (expected rank correlation {transfer.prediction.expected_spearman:.3f})."
    )


def _front(run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The front as it was measured, by latency; and what the search had on its front but is not shown as such, because
    only a prediction is known or another network was better in both once measured."""
    measured, left_out = [], []
    for index in {*run.search.front.tolist(), *run.front_latency}:
        loss, predicted_ms = run.search.costs[index].tolist()
        row = {
            "assignment": run.name_row(run.search.assignments[index].tolist()),
            "quality_loss_db": loss,
            "latency_ms": predicted_ms,
            "measured": False,
            "predicted_latency_ms": predicted_ms,
        }
        latency = run.front_latency.get(index)
        if latency is None:
            left_out.append(row)
        else:
            quartiles = {"latency_q25_ms": latency.q25_ms, "latency_q75_ms": latency.q75_ms}
            measured.append(row | {"latency_ms": latency.median_ms, "measured": True} | quartiles)
    costs = np.array([[row["quality_loss_db"], row["latency_ms"]] for row in measured])
    best = non_dominated(costs).tolist() if measured else []
    front = [row for row, kept in zip(measured, best, strict=True) if kept]
    left_out += [row for row, kept in zip(measured, best, strict=True) if not kept]
    return sorted(front, key=_by_latency), sorted(left_out, key=_by_latency)


def _by_latency(row: dict[str, Any]) -> float:
    latency_ms: float = row["latency_ms"]
    return latency_ms


def protocol(run: Run) -> dict[str, Any]:
    """How each figure came about."""
    config, data = run.config, run.config.data
    h, w = config.size
    return {
        "quality": {
            **PROTOCOL,
            "images": f"{len(run.test_images)} test images of source {data.source}, whole",
            "degradation": f"{data.degradation} of {data.strength_px[0]:g} to {data.strength_px[1]:g} pixels, "
            f"seed {data.seed}",
            "network": f"{judged_form(run)}, in tiles of {h}x{w} with an overlap of {OVERLAP}",
            "statistics": "local (TLC)" if config.teacher.tlc else "global over each tile",
        },
        "search": {
            "quality loss": f"PSNR lost against the teacher on {config.search.crops} validation crops of {h}x{w}, "
            f"before fine-tuning; more than {run.cap_db:g} dB counts as that"
            + (f"; of networks in fp32, whose latencies are {run.device_precision}" if run.judged else ""),
            "limits": ", ".join(map(str, run.limits)) or "none",
            "latency": "sum of block medians from the latency table, corrected by "
            f"{run.latency_model.networks} networks measured whole"
            if run.latency_model.corrections
            else "sum of block medians from the latency table",
            "method": config.search.method,
            "evaluations": len(run.search.costs),
        },
        "latency": {
            "input": f"1x3x{h}x{w}",
            "form": "deployed, exported to ONNX"
            + (f"; teacher and student in {form_names(run)}" if run.judged else ""),
            "blocks": f"median of {config.device.samples} samples, operators of one shape in turns",
            "drift": f"one block timed in each of {len(run.drift_percent)} sessions: "
            f"{min(run.drift_percent.values()):+.1f} to {max(run.drift_percent.values()):+.1f} % from the middle one",
            "teacher, student and front": f"median and quartiles of {config.device.final_samples} samples each, "
            "whole networks, in turns in one session; the front's before fine-tuning",
        },
        **({"precision": precision_protocol(run)} if run.judged else {}),
        "counts": {"macs": f"convolutions and linear layers, batch 1, {h}x{w}", "params": "of the deployed form"},
        "seed": config.seed,
    }


def report_data(run: Run, figures: dict[str, Any]) -> ReportData:
    """Everything that the report shows."""
    data = run.config.data
    return ReportData(
        title=f"NAFNet refitted to {run.device.description.backend}",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        result=figures,
        versions=versions(),
        device=run.device.description.as_dict(),
        protocol=protocol(run) | {"data": data.model_dump(mode="json")},
        sites=_sites(run),
        saliency={metric: scores.tolist() for metric, scores in run.saliency.items()},
        options=_options(run),
        evaluations=_evaluations(run),
        chosen=run.chosen,
        hypervolume={
            run.search.method: run.search.hypervolume.tolist(),
            **{name: found.hypervolume.tolist() for name, found in run.baselines.items()},
        },
        latency_table=_latency_rows(run),
        additivity=AdditivityCheck(
            predicted_ms=[predicted for predicted, _ in run.additivity.pairs],
            measured_ms=[measured for _, measured in run.additivity.pairs],
            mape_percent=run.additivity.mape_percent,
            spearman=run.additivity.spearman,
            corrected_ms=run.additivity.corrected_ms,
            corrected_mape_percent=run.additivity.corrected_mape_percent,
        ),
        distillation=_distillation(run),
        finetune=[FinetuneRow(step=step, loss=loss) for step, loss in enumerate(run.finetuned[1], start=1)],
        images=_images(run),
        crops=_crops(run),
        refused=[RefusedRow(site=row.site, operator=row.operator, reason=row.reason) for row in run.space.refused],
        warnings=figures["warnings"],
        foreseen=_foreseen(run),
        ceiling={"macs": run.ceiling.macs, "latency": run.ceiling.latency},
        seconds=run.seconds,
    )


def _foreseen(run: Run) -> list[ForeseenRow]:
    """What the search expected of each replacement, if it did."""
    losses = run.foreseen_db if run.foresees(run.config.search.method) else {}
    teacher_ms, *whole_ms = run.latency_model.predict_ms([{}, *({site: name} for site, name in losses)]).tolist()
    return [
        ForeseenRow(
            site=site,
            operator=name,
            saved_ms=teacher_ms - ms,
            loss_db=loss,
            chosen=run.assignment[site] == name,
        )
        for ((site, name), loss), ms in zip(losses.items(), whole_ms, strict=True)
    ]


def _sites(run: Run) -> list[SiteRow]:
    protected = set(run.protection.paths)
    return [
        SiteRow(
            path=site.path,
            kind=site.kind,
            stride=site.stride,
            in_channels=site.in_channels,
            out_channels=site.out_channels,
            macs=site.macs,
            macs_share=site.macs_share,
            params=site.params,
            protected=site.path in protected,
            alternatives=site.path not in run.without_alternative,
        )
        for site in run.sites
    ]


def _options(run: Run) -> list[tuple[str, ...]]:
    searched = {site.path: names for site, names in zip(run.space.sites, run.space.options, strict=True)}
    return [searched.get(site.path, (KEEP,)) for site in run.sites]


def _evaluations(run: Run) -> list[EvaluationRow]:
    position = {site.path: i for i, site in enumerate(run.space.sites)}
    rows = []
    for index, (assignment, (loss, latency)) in enumerate(zip(run.search.assignments, run.search.costs, strict=True)):
        # The teacher itself is among what was evaluated, and was measured as such.
        teacher = run.latencies.get(run.device_precision, {}).get("teacher")
        measured = run.front_latency.get(index) if np.any(assignment) else teacher
        whole = [int(assignment[position[s.path]]) if s.path in position else 0 for s in run.sites]
        rows.append(
            EvaluationRow(
                assignment=tuple(whole),
                quality_loss_db=float(loss),
                latency_ms=float(latency),
                measured_latency_ms=None if measured is None else measured.median_ms,
                measured_quartiles_ms=None if measured is None else (measured.q25_ms, measured.q75_ms),
                source=run.search.method,
            )
        )
    return rows


def _latency_rows(run: Run) -> list[LatencyRow]:
    rows = []
    for site in run.sites:
        for (shape, operator), entry in run.latency_table.entries.items():
            if shape == site.shape_key and isinstance(entry, Latency):
                rows.append(
                    LatencyRow(
                        site=site.path,
                        operator=operator,
                        median_ms=entry.median_ms,
                        q25_ms=entry.q25_ms,
                        q75_ms=entry.q75_ms,
                    )
                )
    return rows


def _distillation(run: Run) -> dict[str, dict[str, dict[str, list[float]]]]:
    curves: dict[str, dict[str, dict[str, list[float]]]] = {}
    for (path, operator), losses in run.surrogates.losses.items():
        if losses:
            steps = [float(step) for step in range(1, len(losses) + 1)]
            curves.setdefault(path, {})[operator] = {"step": steps, "loss": losses}
    return curves


def _images(run: Run) -> list[ImageRow]:
    scored = [run.evaluations[name].scores for name in ("degraded", "teacher", "student")]
    return [
        ImageRow(
            name=degraded.name,
            degraded_psnr_db=degraded.psnr_db,
            teacher_psnr_db=teacher.psnr_db,
            student_psnr_db=student.psnr_db,
            degraded_ssim=degraded.ssim,
            teacher_ssim=teacher.ssim,
            student_ssim=student.ssim,
        )
        for degraded, teacher, student in zip(*scored, strict=True)
    ]


def _crops(run: Run, count: int = 4) -> list[Crop]:
    """The most detailed part of the first test images, through both networks."""
    with ExitStack() as opened:
        teacher, student = (opened.enter_context(run.restorer(run.delivered(name))) for name in SHIPPED)
        return [_crop(image, run.config.size, teacher, student) for image in run.test_images[:count]]


def _crop(image: ImagePair, size: tuple[int, int], teacher: Restorer, student: Restorer) -> Crop:
    degraded, clean, where = _busiest(image, size)
    shown = {
        "degraded": eight_bits(degraded),
        "teacher": eight_bits(teacher(degraded)),
        "student": eight_bits(student(degraded)),
    }
    target = eight_bits(clean)
    scores = {name: psnr_db(version, target) for name, version in shown.items()}
    return Crop(name=f"{image.name}, {where}", clean=target, psnr_db=scores, **shown)


def _busiest(image: ImagePair, size: tuple[int, int]) -> tuple[RgbImage, RgbImage, str]:
    """The window of the clean image with the strongest gradients, where blur shows."""
    h, w = (min(side, whole) for side, whole in zip(size, image.clean.shape[:2], strict=True))
    gray = image.clean.astype(np.float32).mean(axis=2)
    rows, columns = np.gradient(gray)
    energy = np.hypot(rows, columns)
    best, place = -1.0, (0, 0)
    for top in range(0, gray.shape[0] - h + 1, 32):
        for left in range(0, gray.shape[1] - w + 1, 32):
            found = float(energy[top : top + h, left : left + w].mean())
            if found > best:
                best, place = found, (top, left)
    top, left = place
    cut = (slice(top, top + h), slice(left, left + w))
    return image.degraded[cut], image.clean[cut], f"{w}x{h} at ({left}, {top})"
