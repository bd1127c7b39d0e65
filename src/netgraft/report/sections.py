"""The sections of a report: functions of the data that give HTML, or nothing if there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from netgraft.report import conditions, figures, fronts
from netgraft.report.data import ReportData
from netgraft.report.markup import (
    ABSENT,
    details,
    duration,
    figure,
    latency,
    number,
    pairs,
    plain,
    scaled,
    section,
    significant,
    table,
    words,
)
from netgraft.report.pictures import gallery


def crops(data: ReportData) -> str:
    """What the networks do to images, to look at."""
    if not data.crops:
        return ""
    lead = "Drag the edge: the student should look like the teacher, and both come nearer to the clean crop."
    return section("crops", "Before and after", lead, gallery(data.crops))


def comparison(data: ReportData) -> str:
    """Degraded, teacher and student, one row a figure."""
    columns = [(name, data.result.get(name) or {}) for name in ("degraded", "teacher", "student")]
    columns = [(name, values) for name, values in columns if values]
    if not any(name != "degraded" for name, _ in columns):
        return ""
    rows = []
    for label, show in _COMPARED:
        cells = [show(values) for _, values in columns]
        if any(cell != ABSENT for cell in cells):
            rows.append([label, *cells])
    lead = "The student's column is what you would deploy, the teacher's is what it is measured against." + _first(data)
    compared = table(["", *(name for name, _ in columns)], rows)
    parts = [_limits(data.result.get("student") or {}), _precisions(data.result.get("precision") or {})]
    return section("numbers", "Numbers", lead, compared, *filter(None, parts))


def _precisions(precision: Mapping[str, Any]) -> str:
    """Teacher and student in every precision that they were judged in, and why one of these is delivered."""
    rows = []
    for form in precision.get("student", {}):
        for name in ("teacher", "student"):
            values = precision[name][form]
            cells = [number(values.get("psnr_db"), 2, "dB"), number(values.get("ssim"), 4), latency(values)]
            cells += [scaled(values.get("size_bytes"), "B"), significant(values.get("difference_max_abs"))]
            delivered = "yes" if form == precision["delivered"] else ""
            rows.append([f"{name}, {escape(form)}", *cells, delivered])
    if not rows:
        return ""
    head = ["precision", "PSNR", "SSIM", "latency, median [quartiles]", "file", "differs by at most", "delivered"]
    return f"<h3>Precisions</h3><p>{escape(precision['reason'])}</p>{table(head, rows)}"


def _limits(student: Mapping[str, Any]) -> str:
    """The limits that were set, and whether the student meets them."""
    limits: Mapping[str, Mapping[str, Any]] = student.get("limits") or {}
    if not limits:
        return ""
    rows = [
        [
            f"<code>{escape(name)}</code>",
            *(f"{row[figure]:.6g}" for figure in ("limit", "searched", "delivered")),
            "yes" if row["met"] else "<b>no</b>",
        ]
        for name, row in limits.items()
    ]
    return table(["limit", "allowed", "in the search", "delivered", "met"], rows)


_COMPARED = (
    ("PSNR", lambda values: number(values.get("psnr_db"), 2, "dB")),
    ("SSIM", lambda values: number(values.get("ssim"), 4)),
    ("latency, median [quartiles]", latency),
    ("multiply-accumulates", lambda values: scaled(values.get("macs"), "MACs")),
    ("parameters", lambda values: scaled(values.get("params"), "")),
    ("file size", lambda values: scaled(values.get("size_bytes"), "B")),
    ("fp32 export differs by at most", lambda values: significant(values.get("parity_max_abs"))),
)


def assignment(data: ReportData) -> str:
    """What the student consists of."""
    operators: Mapping[str, str] = (data.result.get("student") or {}).get("assignment") or {}
    if not operators:
        return ""
    times = {(row.site, row.operator): row.median_ms for row in data.latency_table}
    original = {site.path: names[0] for site, names in zip(data.sites, data.options, strict=False)}
    rows, marked = [], []
    for path, operator in operators.items():
        before, after = times.get((path, original.get(path, ""))), times.get((path, operator))
        change = number(after - before, 3, "ms", signed=True) if before is not None and after is not None else ABSENT
        cells = [number(before, 3, "ms"), number(after, 3, "ms"), change]
        rows.append([f"<code>{escape(path)}</code>", escape(operator), *cells])
        marked.append(operator != original.get(path, operator))
    content = table(["site", "operator", "before", "after", "change"], rows, text_columns=2, marked=marked)
    replaced = sum(marked)
    lead = (
        f"The student replaces {replaced} of {len(rows)} sites; the bars show where its time went and goes."
        + _first(data)
    )
    picked = data.chosen.get("chosen")
    plot = ""
    if picked is not None and data.latency_table and data.sites and data.options:
        plot = figure("site-latency", figures.site_latency(data, picked))
    return section("student", "What was changed", lead, plot, details("Every site and its operator", content))


def images(data: ReportData) -> str:
    """Scores per test image."""
    if not data.images:
        return ""
    rows = [
        [
            escape(row.name),
            number(row.degraded_psnr_db, 2),
            number(row.teacher_psnr_db, 2),
            number(row.student_psnr_db, 2),
            number(row.student_psnr_db - row.teacher_psnr_db, 2, signed=True),
            number(row.degraded_ssim, 4),
            number(row.teacher_ssim, 4),
            number(row.student_ssim, 4),
        ]
        for row in data.images
    ]
    worst = max(data.images, key=lambda row: row.teacher_psnr_db - row.student_psnr_db)
    lost = number(worst.teacher_psnr_db - worst.student_psnr_db, 2, "dB")
    lead = f"Averages hide outliers: the largest loss on a single image is {lost}, on {escape(worst.name)}."
    head = ["image", *(f"{who} PSNR" for who in ("degraded", "teacher", "student")), "change in dB"]
    head += [f"{who} SSIM" for who in ("degraded", "teacher", "student")]
    content = table(head, rows)
    if len(rows) > 12:
        content = details(f"All {len(rows)} images", content)
    return section("images", "Image by image", lead, content)


def saliency(data: ReportData) -> str:
    """How much each site is expected to matter."""
    if not data.sites:
        return ""
    lead = (
        "Darker sites are expected to matter more to quality, by rank within each metric; "
        "a star marks a site that is protected: it keeps the teacher's block."
    )
    plot = figure("saliency", figures.saliency(data.sites, data.saliency)) if data.saliency else ""
    if not plot:
        lead = "Where time and weights sit in the teacher; only these places can change."
    rows = [
        [
            f"<code>{escape(site.path)}</code>{' ★' if site.protected else ''}",
            escape(site.kind),
            str(site.stride),
            f"{site.in_channels} → {site.out_channels}",
            scaled(site.macs, "MACs"),
            number(100 * site.macs_share, 1, "%"),
            scaled(site.params, ""),
        ]
        for site in data.sites
    ]
    head = ["site", "kind", "stride", "channels", "MACs", "share", "parameters"]
    sites = details(f"All {len(rows)} sites", table(head, rows, text_columns=2))
    return section("sites", "Sites and their saliency", lead, plot, sites)


def space(data: ReportData) -> str:
    """What the search could choose from, what it could reach at best, and what it could not have."""
    if not (data.refused or data.ceiling or data.options):
        return ""
    parts = []
    if data.options:
        counts = [len(names) for names in data.options if len(names) > 1]
        parts.append(
            f"<p>{len(counts)} of {len(data.options)} sites can change, with {sum(counts)} options in all: "
            f"{_combinations(math.prod(counts))} assignments.</p>"
        )
    if bare := [f"<code>{escape(site.path)}</code>" for site in data.sites if not site.alternatives]:
        parts.append(f"<p>No operator of the pool fits {', '.join(bare)}: the teacher's block stays there.</p>")
    if data.ceiling:
        names = {"macs": "multiply-accumulates"}
        values = [(names.get(name, name), number(100 * v, 1, "%")) for name, v in data.ceiling.items()]
        parts.append(f"<h3>The most that this space can save</h3>{pairs(values)}")
    if data.foreseen:
        parts.append(
            "<h3>What each replacement alone saves, and is expected to cost</h3>"
            "<p class=\"note\">Foreseen from the teacher's sensitivity and each operator's error, before the search, "
            "which starts from here. Bottom right is cheap time; filled points are in the student.</p>"
        )
        parts.append(figure("foreseen", figures.foreseen(data.foreseen)))
    if data.refused:
        rows = [[f"<code>{escape(r.site)}</code>", escape(r.operator), escape(r.reason)] for r in data.refused]
        listing = table(["site", "operator", "why"], rows, text_columns=3)
        parts.append(details(f"{len(rows)} options left the space before the search", listing))
    lead = "No search can beat its space: these are its limits, and the options that it had to do without."
    return section("space", "The space", lead, *parts)


def distillation(data: ReportData) -> str:
    """How well each operator learned to stand in for its site."""
    curves = {site: by_operator for site, by_operator in data.distillation.items() if by_operator}
    if not curves:
        return ""
    lead = (
        "A curve that still falls at its end would gain from more steps; a low loss alone "
        "does not promise a good network, which is why assignments are evaluated whole."
    )
    plot = figure("distillation", figures.distillation(curves), pick="Site")
    return section("distillation", "Distillation", lead, plot)


def additivity(data: ReportData) -> str:
    """Whether the latency table may be added up."""
    if data.additivity is None or not len(data.additivity.predicted_ms):
        return ""
    check = data.additivity
    lead = (
        f"On the dotted line the blocks' latencies add up to the network's: here they are off by "
        f"{number(check.mape_percent, 1, '%')} on average, and order networks with a rank correlation of "
        f"{number(check.spearman, 3)}."
    ) + _first(data)
    if check.corrected_mape_percent is not None and not check.corrected_mape_percent < check.mape_percent:
        lead += " What other whole networks teach about blocks and their neighbors does not lower that error."
    elif check.corrected_mape_percent is not None:
        lead += (
            f" What other whole networks teach about blocks and their neighbors brings the error to "
            f"{number(check.corrected_mape_percent, 1, '%')}."
        )
    return section("additivity", "Do latencies add up?", lead, figure("additivity", figures.additivity(check)))


def hypervolume(data: ReportData) -> str:
    """How the search went."""
    traces = {name: values for name, values in data.hypervolume.items() if len(values)}
    if not traces:
        return ""
    lead = "Higher is better and a flat end means that more evaluations would have found little more."
    return section("search", "The search", lead, figure("hypervolume", figures.hypervolume(traces)))


def finetuning(data: ReportData) -> str:
    """What training the assembled student brought."""
    if not data.finetune:
        return ""
    scored = [row.psnr_db for row in data.finetune if row.psnr_db is not None]
    lead = "The whole student is trained once more; every step has other crops, so that its loss goes up and down."
    if len(scored) > 1:
        change = number(scored[-1] - scored[0], 2, "dB", signed=True)
        lead = f"The whole student is trained once more; from the first to the last check that brought {change}."
    return section("finetuning", "Fine-tuning", lead, figure("finetuning", figures.finetuning(data.finetune)))


def protocol(data: ReportData) -> str:
    """All that is needed to judge the figures and to repeat them."""
    groups: list[tuple[str, Mapping[str, Any]]] = []
    single = {key: value for key, value in data.protocol.items() if not isinstance(value, Mapping)}
    groups.append(("run", single))
    groups += [(key, value) for key, value in data.protocol.items() if isinstance(value, Mapping)]
    groups += [("device", data.device), ("versions", data.versions)]
    boxes = [
        f"<div><h3>{escape(words(name))}</h3>"
        f"{pairs([(words(key), plain(value)) for key, value in values.items()])}</div>"
        for name, values in groups
        if values
    ]
    if data.seconds:
        times = [(words(stage), duration(value)) for stage, value in data.seconds.items()]
        times.append(("in all", duration(sum(data.seconds.values()))))
        boxes.append(f"<div><h3>time per stage</h3>{pairs(times)}</div>")
    if not boxes:
        return ""
    lead = "Figures from another protocol do not compare with these; this is exactly how they came about."
    return section("protocol", "Protocol", lead, f'<div class="groups">{"".join(boxes)}</div>')


def _first(data: ReportData) -> str:
    """Whose latencies a section shows, where there are several devices."""
    return f" Latencies here are those on <code>{escape(next(iter(data.devices)))}</code>." if data.devices else ""


def _combinations(count: int) -> str:
    return f"{count:,}" if count < 10**6 else f"about 10<sup>{math.log10(count):.0f}</sup>"


ORDER: Sequence[Callable[[ReportData], str]] = (
    crops,
    comparison,
    fronts.devices,
    fronts.front,
    assignment,
    images,
    conditions.conditions,
    saliency,
    space,
    distillation,
    additivity,
    hypervolume,
    finetuning,
    protocol,
)
"""The sections from top to bottom."""
