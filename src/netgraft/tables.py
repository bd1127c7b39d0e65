"""What a run and its stages print: a table for people, a document for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.table import Table

from netgraft.devices import Latency, Unsupported, drift_percent
from netgraft.sites import KEEP
from netgraft.stages import Run
from netgraft.stages.forms import NoForm
from netgraft.stages.joint import LOSS
from netgraft.stages.transfer import transfer_figures
from netgraft.summary import drift_warning, lost_warnings, transfer_warning


def result_table(figures: Mapping[str, Any]) -> Table:
    """Teacher against student, from the figures of ``result.json``."""
    table = Table(title="teacher against student")
    for column in ("", "degraded", "teacher", "student"):
        table.add_column(column, justify="right" if column else "left")
    teacher, student, degraded = (figures[name] for name in ("teacher", "student", "degraded"))
    for figure, digits in (("psnr_db", 2), ("ssim", 4)):
        table.add_row(figure, *(f"{row[figure]:.{digits}f}" for row in (degraded, teacher, student)))
    table.add_row("latency_ms", "", _latency(teacher), _latency(student))
    table.add_row("macs", "", *(f"{row['macs'] / 1e9:.3f} G" for row in (teacher, student)))
    table.add_row("params", "", *(f"{row['params'] / 1e6:.3f} M" for row in (teacher, student)))
    table.add_row("fp32 parity", "", *(f"{row['parity_max_abs']:.1e}" for row in (teacher, student)))
    _add_devices(table, figures["devices"])
    _add_precisions(table, figures["precision"])
    speed = teacher["latency_ms"]["median"] / student["latency_ms"]["median"]
    table.caption = (
        (
            f"{speed:.2f} times as fast, {student['psnr_db'] - teacher['psnr_db']:+.2f} dB, "
            f"on {figures['device']['backend']} with {figures['device']['threads']} thread(s), "
            f"in {figures['precision']['delivered']}"
        )
        + _reason(figures["precision"])
        + _limits(figures["student"]["limits"])
        + _warnings(figures["warnings"])
    )
    return table


def adapted_table(figures: Mapping[str, Any]) -> Table:
    """Student and teacher, tuned and not, from the figures of an adaptation."""
    table = Table(title=f"adapted with {figures['images']['train']} images, {figures['images']['test']} to judge by")
    columns = [("degraded", figures["degraded"])]
    columns += [
        (f"{name} {form}", figures[name][form])
        for name in ("student", "teacher")
        if name in figures
        for form in ("untuned", "tuned")
    ]
    for title in ("", *(title for title, _ in columns)):
        table.add_column(title, justify="right" if title else "left")
    rows = [row for _, row in columns]
    for figure, digits in (("psnr_db", 2), ("ssim", 4)):
        table.add_row(figure, *(f"{row[figure]:.{digits}f}" for row in rows))
        table.add_row("  95 %", *("[{:.{d}f}, {:.{d}f}]".format(*row[f"{figure}_interval"], d=digits) for row in rows))
    table.add_row("latency_ms", *map(_latency, rows))
    table.add_row("fp32 parity", *(f"{row['parity_max_abs']:.1e}" if "parity_max_abs" in row else "" for row in rows))
    lines = [
        f"{label}: {gap['mean']:+.2f} dB [{gap['interval'][0]:+.2f}, {gap['interval'][1]:+.2f}]"
        for label, gap in figures["differences_db"].items()
    ]
    for name, graph in figures["architecture"].items():
        course = figures["adaptation"][name]
        lines.append(
            f"{name}: weights of step {course['best_step']} of {course['steps']}, "
            + ("the same graph as before" if graph["same_graph"] else "the exporter wrote another graph than before")
        )
    table.caption = "\n".join(lines)
    return table


def _latency(row: Mapping[str, Any]) -> str:
    ms = row.get("latency_ms")
    return "" if ms is None else f"{ms['median']:.1f} [{ms['q25']:.1f}, {ms['q75']:.1f}]"


def _add_devices(table: Table, devices: Sequence[Mapping[str, Any]]) -> None:
    """A row for each device, where there are several."""
    if len(devices) > 1:
        table.add_section()
        for row in devices:
            table.add_row(
                f"latency_ms, {row['name']}",
                f"{row['speedup']:.2f}x",
                _latency(row["teacher"]),
                _latency(row["student"]),
            )


def _add_precisions(table: Table, precision: Mapping[str, Any]) -> None:
    """A few rows for each precision that teacher and student were judged in, where there are several."""
    for form in precision.get("student", {}):
        rows = [precision[name][form] for name in ("teacher", "student")]
        table.add_section()
        for figure, digits in (("psnr_db", 2), ("ssim", 4)):
            cells = (f"{row[figure]:.{digits}f}" if figure in row else "refused" for row in rows)
            table.add_row(f"{figure}, {form}", "", *cells)
        table.add_row(f"latency_ms, {form}", "", *map(_latency, rows))


def _reason(precision: Mapping[str, Any]) -> str:
    """Why this precision is delivered, unless a warning says it."""
    return f"\n{precision['reason']}" if precision.get("as_asked") else ""


def stage_table(stage: str, run: Run) -> tuple[Table, Any]:
    """The table and the JSON document of a stage that has run."""
    return _TABLES[stage](run)


def _warnings(warnings: Sequence[str]) -> str:
    return "".join(f"\n[bold red]{warning}[/]" for warning in warnings)


def _limits(limits: Mapping[str, Mapping[str, Any]]) -> str:
    rows = (f"{name} {row['limit']:g}: {row['delivered']:.6g}" for name, row in limits.items())
    return f"\nlimits, and the student: {', '.join(rows)}" if limits else ""


def _table(*columns: str) -> Table:
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _saliency(run: Run) -> tuple[Table, Any]:
    table = _table("site", *run.saliency, "keeps its block")
    why = dict.fromkeys(run.protection.paths, "protected") | dict.fromkeys(run.without_alternative, "no alternative")
    for row, site in enumerate(run.sites):
        values = (f"{scores[row]:.3g}" for scores in run.saliency.values())
        table.add_row(site.path, *values, why.get(site.path, ""))
    table.caption = f"protected: {run.protection.rule}"
    document = {
        "sites": [dataclasses.asdict(site) for site in run.sites],
        "saliency": {metric: scores.tolist() for metric, scores in run.saliency.items()},
        "protected": list(run.protection.paths),
        "without_alternative": list(run.without_alternative),
        "rule": run.protection.rule,
    }
    return table, document


def _distill(run: Run) -> tuple[Table, Any]:
    names = list(run.pool)
    table = _table("site", *names)
    for site in run.open_sites:
        errors = (run.surrogates.errors.get((site.path, name)) for name in names)
        table.add_row(site.path, *("" if error is None else f"{error:.2e}" for error in errors))
    table.caption = "normalized L2 against the teacher's features, on calibration crops"
    document = [
        {"site": path, "operator": name, "error": error} for (path, name), error in run.surrogates.errors.items()
    ]
    return table, document


def _profile(run: Run) -> tuple[Table, Any]:
    names = [KEEP, *run.pool]
    table = _table(*(["device"] if run.several else []), "shape", *names)
    captions, documents = [], {}
    for bench in run.profiled:
        found = bench.latency_table
        for shape in dict.fromkeys(found.site_keys.values()):
            cells = (_cell(found.entries.get((shape, name))) for name in names)
            table.add_row(*([bench.name] if run.several else []), shape, *cells)
        check, ceiling, drift = bench.additivity, run.ceiling_on(bench), drift_percent(found.reference_ms)
        caption = (
            f"median ms; whole teacher {found.teacher.median_ms:.1f} ms; {len(check.pairs)} whole networks: sums of "
            f"blocks are off by {check.mape_percent:.1f} % (Spearman {check.spearman:.2f}), "
            f"corrected {check.corrected_mape_percent:.1f} % (Spearman {check.corrected_spearman:.2f}); "
            f"this space can save at most {100 * ceiling.macs:.0f} % of the MACs and {100 * ceiling.latency:.0f} % of "
            f"the latency ({ceiling.fastest_ms:.1f} ms)"
        )
        warnings = [warning for warning in (drift_warning(drift), transfer_warning(bench.transfer)) if warning]
        captions.append(bench.told(caption) + _warnings(list(map(bench.told, warnings))))
        documents[bench.name] = {
            **dataclasses.asdict(check),
            "ceiling": dataclasses.asdict(ceiling),
            "drift_percent": drift,
            "transfer": transfer_figures(bench.transfer),
            "latency_model": bench.latency_model.as_dict(),
        }
    lost = lost_warnings(run.lost)
    table.caption = "\n".join(captions) + _warnings(lost)
    first = documents[run.bench.name]
    return table, {**first, "devices": documents, "warnings": lost} if run.several else first


def _cell(entry: Latency | Unsupported | None) -> str:
    if isinstance(entry, Latency):
        return f"{'~' * entry.predicted}{entry.median_ms:.3f}"
    return "" if entry is None else "refused"


def _search(run: Run) -> tuple[Table, Any]:
    names = [bench.name for bench in run.profiled]
    table = _table("point", "loss dB", *_latency_columns(names), "sites changed")
    labels: dict[int, list[str]] = {}
    for label, index in run.chosen.items():
        labels.setdefault(index, []).append(label)
    rows = []
    for index in run.search.front.tolist():
        loss, latency_ms = float(run.search.costs[index, LOSS]), run.latency_ms[index].tolist()
        changed = int(np.count_nonzero(run.search.assignments[index]))
        cells = [f"{ms:.1f}" for ms in latency_ms] + ([f"{run.latency[index]:.3f}"] if run.several else [])
        table.add_row(", ".join(labels.get(index, [])), f"{loss:.3f}", *cells, str(changed))
        row = {
            "assignment": run.name_row(run.search.assignments[index].tolist()),
            "quality_loss_db": loss,
            "latency_ms": latency_ms[0],
        }
        if run.several:
            row |= {"slowest": float(run.latency[index]), "devices_ms": dict(zip(names, latency_ms, strict=True))}
        rows.append(row)
    warnings = list(filter(None, [run.choice_warning]))
    limits = f"; within {', '.join(map(str, run.limits))}" if run.limits else ""
    table.caption = f"{len(run.search.costs)} evaluations; interactions: {run.search.regime}{limits}" + _warnings(
        warnings
    )
    return table, {"front": rows, "chosen": run.chosen, "warnings": warnings}


def _latency_columns(devices: Sequence[str]) -> list[str]:
    """Of several devices also the slowest's share of the teacher's latency."""
    return ["latency ms"] if len(devices) == 1 else [*(f"{name} ms" for name in devices), "slowest / teacher"]


def _finetune(run: Run) -> tuple[Table, Any]:
    _, losses = run.finetuned
    table = _table("steps", "first loss", "last loss")
    tail = max(1, len(losses) // 10)
    if losses:
        table.add_row(str(len(losses)), f"{np.mean(losses[:tail]):.3f}", f"{np.mean(losses[-tail:]):.3f}")
    return table, {"losses": losses}


def _export(run: Run) -> tuple[Table, Any]:
    table = _table("network", "file", "MB", "differs by")
    document: dict[str, Any] = {}
    for name, export in run.exports.items():
        table.add_row(name, str(export.fixed), f"{export.size_bytes / 1e6:.1f}", f"{export.parity_max_abs:.1e}")
        document[name] = {key: str(value) for key, value in dataclasses.asdict(export).items()}
    reduced = [
        (delivery.bench.told(f"{name}, {precision}"), form)
        for delivery in run.deliveries
        for precision, forms in delivery.forms.items()
        for name, form in forms.items()
    ]
    for label, form in reduced:
        if isinstance(form, NoForm):
            table.add_row(label, "refused", "", "")
            document[label] = {"refused": form.reason}
            continue
        table.add_row(label, str(form.files[0]), f"{form.size_bytes / 1e6:.1f}", f"{form.difference_max_abs:.1e}")
        document[label] = {
            "files": [str(path) for path in form.files],
            "difference_max_abs": form.difference_max_abs,
            "difference_rms": form.difference_rms,
        }
    return table, document


def _report(run: Run) -> tuple[Table, Any]:
    table = _table("report")
    path = run.store.root / "report.html"
    table.add_row(str(path))
    return table, {"report": str(path)}


_TABLES: Mapping[str, Callable[[Run], tuple[Table, Any]]] = MappingProxyType(
    {
        "saliency": _saliency,
        "distill": _distill,
        "profile": _profile,
        "search": _search,
        "finetune": _finetune,
        "export": _export,
        "report": _report,
    }
)
