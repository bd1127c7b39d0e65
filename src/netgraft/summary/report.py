"""A run's report: everything that it shows, as plain data."""

from __future__ import annotations

import datetime
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netgraft.data.images import ImagePair
from netgraft.devices import Latency
from netgraft.evaluate import eight_bits
from netgraft.imaging import RgbImage, psnr_db
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
from netgraft.restore import Restorer
from netgraft.sites import KEEP
from netgraft.stages import Run
from netgraft.stages.delivery import SHIPPED, Delivery
from netgraft.stages.joint import LOSS
from netgraft.stages.scores import ScoreStages
from netgraft.summary.devices import joint_ms, slowest
from netgraft.summary.figures import versions
from netgraft.summary.protocol import protocol


def report_data(run: Run, figures: dict[str, Any]) -> ReportData:
    """Everything that the report shows."""
    data = run.config.data
    names, backends = [bench.name for bench in run.benches], [run.bench.device.description.backend]
    return ReportData(
        title=f"{run.teacher.description}, refitted to {' and '.join(names if run.several else backends)}",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        result=figures,
        versions=versions(),
        device=run.bench.device.description.as_dict(),
        protocol=protocol(run) | {"data": data.model_dump(mode="json")},
        sites=_sites(run),
        saliency={metric: scores.tolist() for metric, scores in run.saliency.items()},
        options=_options(run),
        evaluations=_evaluations(run.measured[0]),
        devices={delivery.bench.name: _evaluations(delivery) for delivery in run.measured} if run.several else {},
        joint=_joint(run) if run.several else (),
        chosen=run.chosen,
        hypervolume={
            run.search.method: run.search.hypervolume.tolist(),
            **{name: found.hypervolume.tolist() for name, found in run.baselines.items()},
        },
        latency_table=_latency_rows(run),
        additivity=AdditivityCheck(
            predicted_ms=[predicted for predicted, _ in run.bench.additivity.pairs],
            measured_ms=[measured for _, measured in run.bench.additivity.pairs],
            mape_percent=run.bench.additivity.mape_percent,
            spearman=run.bench.additivity.spearman,
            corrected_ms=run.bench.additivity.corrected_ms,
            corrected_mape_percent=run.bench.additivity.corrected_mape_percent,
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
    teacher_ms, *whole_ms = run.bench.latency_model.predict_ms([{}, *({site: name} for site, name in losses)]).tolist()
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


def _evaluations(delivery: Delivery) -> list[EvaluationRow]:
    """Every evaluation with its latency on a device."""
    run = delivery.stages
    # The teacher itself is among what was evaluated, and was measured as such.
    teacher = delivery.latencies.get(delivery.device_precision, {}).get("teacher")
    rows = []
    for index, assignment in enumerate(run.search.assignments):
        measured = delivery.front_latency.get(index) if np.any(assignment) else teacher
        rows.append(
            EvaluationRow(
                assignment=_whole(run, assignment),
                quality_loss_db=float(run.search.costs[index, LOSS]),
                latency_ms=float(delivery.latency_ms[index]),
                measured_latency_ms=None if measured is None else measured.median_ms,
                measured_quartiles_ms=None if measured is None else (measured.q25_ms, measured.q75_ms),
                source=run.search.method,
            )
        )
    return rows


def _joint(run: Run) -> list[EvaluationRow]:
    """Every evaluation with the slowest device's latency, in percent of the teacher's."""
    rows = []
    for index, assignment in enumerate(run.search.assignments):
        measured_ms = joint_ms(run, index)
        measured = 100 * slowest(run, measured_ms) if measured_ms is not None else None
        rows.append(
            EvaluationRow(
                assignment=_whole(run, assignment),
                quality_loss_db=float(run.search.costs[index, LOSS]),
                latency_ms=100 * float(run.latency[index]),
                measured_latency_ms=measured if np.any(assignment) else 100.0,
                source=run.search.method,
            )
        )
    return rows


def _whole(run: ScoreStages, assignment: NDArray[np.int64]) -> tuple[int, ...]:
    """The option of every site of the network, of a row of the search."""
    position = {site.path: i for i, site in enumerate(run.space.sites)}
    return tuple(int(assignment[position[site.path]]) if site.path in position else 0 for site in run.sites)


def _latency_rows(run: Run) -> list[LatencyRow]:
    rows = []
    for site in run.sites:
        for (shape, operator), entry in run.bench.latency_table.entries.items():
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
    scored = [run.measured[0].evaluations[name].scores for name in ("degraded", "teacher", "student")]
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
    first = run.measured[0]
    with ExitStack() as opened:
        teacher, student = (opened.enter_context(first.restorer(first.delivered(name))) for name in SHIPPED)
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
