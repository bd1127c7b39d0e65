"""The figures of a report, as plotly specifications: plain dictionaries of data and layout.

Colors are chosen to read on light and on dark ground; the page sets the rest of the theme when it draws.
Plotly shows a small part of HTML in its texts, so names that come from outside are escaped here too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from netgraft.report.data import AdditivityCheck, EvaluationRow, FinetuneRow, ForeseenRow, ReportData, SiteRow
from netgraft.report.markup import typeset
from netgraft.search.pareto import non_dominated

Spec = dict[str, Any]

TEACHER, STUDENT, POINT = "#7b8794", "#0e9384", "#8aa0b8"
CYCLE = ("#0e9384", "#e0762e", "#7a5af8", "#d6457f", "#3b82d6", "#b58a00", "#5f7d3a", "#9a6b52")
MARKS = {"chosen": ("star", STUDENT), "knee": ("diamond", "#7a5af8"), "fastest": ("triangle-left", "#e0762e")}
HOVER_LINES = 10
LEAST_LOSS_DB = 1e-4
_PATHS = {"type": "category", "tickangle": -90, "showgrid": False}
HEAT = [[0.0, "rgba(14,147,132,0.04)"], [0.5, "rgba(14,147,132,0.42)"], [1.0, "rgba(9,110,99,1)"]]


def front(data: ReportData, rows: Sequence[EvaluationRow], latency: str = "latency", unit: str = "ms") -> Spec:
    """Quality loss against latency of everything that was evaluated; rows: as one device sees it, or all together."""
    hover = [_assignment_text(data, row, unit) for row in rows]
    traces = [_points("evaluated (predicted latency)", range(len(rows)), rows, hover, POINT, size=7, opacity=0.5)]
    measured = [i for i, row in enumerate(rows) if row.measured_latency_ms is not None]
    shown_ms = [row.latency_ms if row.measured_latency_ms is None else row.measured_latency_ms for row in rows]
    # The line joins what was measured; only where nothing was, what was predicted.
    joined = measured or list(range(len(rows)))
    points = np.array([[shown_ms[i], rows[i].quality_loss_db] for i in joined])
    best = sorted((joined[i] for i in np.flatnonzero(non_dominated(points))), key=lambda i: shown_ms[i])
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "front",
            "x": [shown_ms[i] for i in best],
            "y": [rows[i].quality_loss_db for i in best],
            "line": {"color": STUDENT, "width": 2, "shape": "hv"},
            "hoverinfo": "skip",
        }
    )
    if measured:
        trace = _points("measured end to end", measured, rows, hover, "#d6457f", size=9)
        trace["x"] = [shown_ms[i] for i in measured]
        trace["error_x"] = _quartiles([rows[i] for i in measured])
        traces.append(trace)
    teacher = [i for i, row in enumerate(rows) if not any(row.assignment)][:1]
    if teacher:
        traces.append(_points("teacher", teacher, rows, hover, TEACHER, size=13, symbol="square"))
        traces[-1]["x"] = [shown_ms[i] for i in teacher]
    for i, names in data.named_points().items():
        # A point of many names has one mark, the first of these.
        symbol, color = next((MARKS[name] for name in MARKS if name in names), ("cross", STUDENT))
        label = escape(", ".join(names).replace("_", " "))
        traces.append(_points(label, [i], rows, hover, color, size=15, symbol=symbol))
        traces[-1]["x"] = [shown_ms[i]]
    return _spec(traces, f"{latency} in {unit}", "quality loss in dB", height=520, hovermode="closest")


def _quartiles(rows: Sequence[EvaluationRow]) -> Spec:
    """Bars from the first to the third quartile of measured latencies."""
    ends = [
        (0.0, 0.0)
        if row.measured_latency_ms is None or row.measured_quartiles_ms is None
        else (
            row.measured_latency_ms - row.measured_quartiles_ms[0],
            row.measured_quartiles_ms[1] - row.measured_latency_ms,
        )
        for row in rows
    ]
    below, above = ([end[side] for end in ends] for side in (0, 1))
    return {"type": "data", "symmetric": False, "arrayminus": below, "array": above, "color": "#d6457f", "thickness": 1}


def _points(
    name: str,
    indices: Sequence[int] | range,
    rows: Sequence[EvaluationRow],
    hover: Sequence[str],
    color: str,
    *,
    size: int,
    symbol: str = "circle",
    opacity: float = 1.0,
) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [rows[i].latency_ms for i in indices],
        "y": [rows[i].quality_loss_db for i in indices],
        "text": [hover[i] for i in indices],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": color,
            "size": size,
            "symbol": symbol,
            "opacity": opacity,
            "line": {"width": 1.5, "color": color},
        },
    }


def _assignment_text(data: ReportData, row: EvaluationRow, unit: str) -> str:
    """What a point is, for its hover text: numbers first, then what was replaced."""
    head = [f"<b>{row.quality_loss_db:.3f} dB lost, {row.latency_ms:.2f} {unit} predicted</b>"]
    if row.measured_latency_ms is not None:
        quartiles = row.measured_quartiles_ms
        spread = "" if quartiles is None else f" [{quartiles[0]:.2f}, {quartiles[1]:.2f}]"
        head.append(f"{row.measured_latency_ms:.2f} {unit} measured{spread}")
    head.append(escape(row.source))
    if not (data.sites and data.options):
        return "<br>".join(head)
    named = zip(data.sites, data.options, row.assignment, strict=True)
    changed = [(site.path, options[pick]) for site, options, pick in named if pick]
    counts = Counter(operator for _, operator in changed)
    head.append(", ".join(f"{n} × {escape(name)}" for name, n in counts.most_common()) or "nothing replaced")
    lines = [f"{escape(path)}: {escape(operator)}" for path, operator in changed[:HOVER_LINES]]
    if len(changed) > HOVER_LINES:
        lines.append(f"… and {len(changed) - HOVER_LINES} more")
    return "<br>".join(head + lines)


def hypervolume(traces: Mapping[str, Sequence[float]]) -> Spec:
    """Hypervolume after each evaluation, by search method."""
    lines = [
        _line(name, list(range(1, len(values) + 1)), list(values), CYCLE[i % len(CYCLE)], shape="hv")
        for i, (name, values) in enumerate(traces.items())
    ]
    return _spec(lines, "evaluations", "hypervolume", height=360)


def saliency(sites: Sequence[SiteRow], values: Mapping[str, Sequence[float]]) -> Spec:
    """Sites by metrics; color is the rank within the metric, the values are in the hover text."""
    paths = [escape(site.path) for site in sites]
    metrics = [escape(name) for name in values]
    trace = {
        "type": "heatmap",
        "x": paths,
        "y": metrics,
        "z": [ranks(row) for row in values.values()],
        "customdata": [list(row) for row in values.values()],
        "hovertemplate": "%{x}<br>%{y}: %{customdata:.4g}<br>rank %{z:.0%}<extra></extra>",
        "colorscale": HEAT,
        "zmin": 0,
        "zmax": 1,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": "rank"}, "tickformat": ".0%", "thickness": 10, "outlinewidth": 0},
    }
    protected = [path for path, site in zip(paths, sites, strict=True) if site.protected]
    traces: list[Spec] = [trace]
    if protected:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "protected",
                "x": protected,
                "y": ["protected"] * len(protected),
                "hovertemplate": "%{x} keeps the teacher's block<extra></extra>",
                "marker": {"symbol": "star", "size": 11, "color": "#e0762e"},
                "showlegend": False,
            }
        )
    # Paths stand upright under the map, and would take its height where they are long.
    labels = max(80, 7 * max(map(len, paths), default=0))
    spec = _spec(traces, "", "", height=90 + labels + 34 * (len(metrics) + bool(protected)))
    spec["layout"]["xaxis"].update(_PATHS)
    order = metrics[::-1] + (["protected"] if protected else [])
    spec["layout"]["yaxis"].update(type="category", categoryorder="array", categoryarray=order, showgrid=False)
    return spec


def ranks(values: Sequence[float]) -> list[float]:
    """The share of the other values that each is above, equal ones counting half; 0 to 1."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return [1.0] * len(array)
    below = (array[None, :] < array[:, None]).sum(1)
    equal = (array[None, :] == array[:, None]).sum(1) - 1
    return [float(rank) for rank in (below + equal / 2) / (len(array) - 1)]


def site_latency(data: ReportData, index: int) -> Spec:
    """Latency per site before, and after in evaluation ``index``."""
    table = {(row.site, row.operator): row for row in data.latency_table}
    chosen = data.evaluations[index].assignment
    traces = []
    for name, color, picks in (
        ("teacher", TEACHER, [0] * len(chosen)),
        ("student", STUDENT, list(chosen)),
    ):
        rows = [
            table.get((site.path, options[pick]))
            for site, options, pick in zip(data.sites, data.options, picks, strict=True)
        ]
        traces.append(
            {
                "type": "bar",
                "name": name,
                "x": [escape(site.path) for site in data.sites],
                "y": [row.median_ms if row else None for row in rows],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [row.q75_ms - row.median_ms if row else None for row in rows],
                    "arrayminus": [row.median_ms - row.q25_ms if row else None for row in rows],
                    "color": "#8a94a0",
                    "thickness": 1,
                    "width": 2,
                },
                "customdata": [escape(row.operator) if row else "" for row in rows],
                "hovertemplate": "%{x}: %{customdata}<br>%{y:.3f} ms<extra></extra>",
                "marker": {"color": color},
            }
        )
    spec = _spec(traces, "", "latency in ms", height=420, barmode="group", bargap=0.25)
    spec["layout"]["xaxis"].update(_PATHS)
    return spec


def foreseen(rows: Sequence[ForeseenRow]) -> Spec:
    """Expected loss of each replacement alone against the latency that it saves; filled: it is in the student."""
    operators = list(dict.fromkeys(row.operator for row in rows))
    traces = []
    for i, name in enumerate(operators):
        # The first point is the legend's: filled where any is.
        own = sorted((row for row in rows if row.operator == name), key=lambda row: not row.chosen)
        color = CYCLE[i % len(CYCLE)]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escape(name),
                "x": [row.saved_ms for row in own],
                "y": [max(row.loss_db, LEAST_LOSS_DB) for row in own],
                "text": [escape(row.site) + (" (in the student)" if row.chosen else "") for row in own],
                "hovertemplate": "%{text}<br>saves %{x:.2f} ms, is expected to cost %{y:.2g} dB<extra></extra>",
                "marker": {
                    "color": color,
                    "size": 9,
                    "symbol": ["circle" if row.chosen else "circle-open" for row in own],
                    "line": {"width": 1.5, "color": color},
                },
            }
        )
    spec = _spec(traces, "latency saved in ms", "expected loss in dB", height=400, hovermode="closest")
    spec["layout"]["yaxis"].update(type="log", dtick=1, tickformat="~g")
    return spec


def additivity(check: AdditivityCheck) -> Spec:
    """Measured whole networks against the sum of their parts, with the line where both agree."""
    predicted, measured, corrected = list(check.predicted_ms), list(check.measured_ms), list(check.corrected_ms)
    ends = [min(predicted + measured + corrected), max(predicted + measured + corrected)]
    same = _line("equal", ends, ends, TEACHER)
    same["line"]["dash"] = "dot"
    same["hoverinfo"] = "skip"
    networks = {
        "type": "scatter",
        "mode": "markers",
        "name": "sum of the blocks",
        "x": predicted,
        "y": measured,
        "hovertemplate": "%{x:.2f} ms predicted<br>%{y:.2f} ms measured<extra></extra>",
        "marker": {"color": STUDENT, "size": 9},
    }
    traces = [same, networks]
    if corrected:
        marker = {"color": CYCLE[1], "size": 9, "symbol": "diamond"}
        traces.append({**networks, "name": "corrected", "x": corrected, "marker": marker})
    return _spec(traces, "predicted in ms", "end to end in ms", height=380, hovermode="closest")


def distillation(curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Spec:
    """Loss of each operator while it learns, in one group of lines per site; the first site's are shown."""
    operators = list(dict.fromkeys(name for by_operator in curves.values() for name in by_operator))
    colors = {name: CYCLE[i % len(CYCLE)] for i, name in enumerate(operators)}
    traces = []
    for i, (site, by_operator) in enumerate(curves.items()):
        for name, curve in by_operator.items():
            line = _line(name, list(curve["step"]), list(curve["loss"]), colors[name])
            if len(curve["step"]) == 1:
                line["mode"] = "markers"
            traces.append({**line, "meta": site, "visible": i == 0})
    spec = _spec(traces, "step", "distillation loss", height=380)
    # Ticks at 1, 2 and 5 times powers of ten: a loss rarely falls by many decades.
    spec["layout"]["yaxis"].update(type="log", dtick="D2", tickformat=".2~g")
    return spec


def finetuning(rows: Sequence[FinetuneRow]) -> Spec:
    """Training loss, and validation PSNR on an axis of its own."""
    loss = _line("training loss", [r.step for r in rows], [r.loss for r in rows], TEACHER)
    scored = [row for row in rows if row.psnr_db is not None]
    psnr = _line("validation PSNR", [r.step for r in scored], [r.psnr_db for r in scored], STUDENT)
    psnr.update(mode="lines+markers", yaxis="y2")
    traces = [loss, psnr] if scored else [loss]
    spec = _spec(traces, "step", "training loss", height=360)
    if scored:
        spec["layout"]["yaxis2"] = {
            "title": {"text": "validation PSNR in dB"},
            "overlaying": "y",
            "tickmode": "auto",
            "tickformat": ".2f",
            "side": "right",
            "showgrid": False,
        }
    return spec


def conditions(rows: Sequence[Mapping[str, Any]]) -> Spec:
    """Gain of teacher and student over the degraded image, and their paired difference, with 95 % intervals."""
    traces = [
        _estimates(rows, "teacher", "teacher_gain_db", TEACHER, symbol="square"),
        _estimates(rows, "student", "student_gain_db", STUDENT),
    ]
    less = _estimates(rows, "student − teacher", "difference_db", CYCLE[2], symbol="diamond")
    broken = [CYCLE[3] if row["breaks_sooner"] else CYCLE[2] for row in rows]
    less["marker"]["color"] = broken
    traces.append({**less, "yaxis": "y2", "showlegend": False})
    as_trained = rows[0]["difference_db"]["mean"]
    line = {"color": TEACHER, "width": 1.5, "dash": "dot"}
    level = {"type": "scatter", "mode": "lines", "x": traces[0]["x"], "y": [as_trained] * len(rows), "line": line}
    traces.append({**level, "yaxis": "y2", "showlegend": False, "hoverinfo": "skip"})
    spec = _spec(traces, "", "gain in dB", height=620, scattermode="group", scattergap=0.6)
    spec["layout"]["xaxis"].update(type="multicategory", tickangle=-90, showgrid=False, anchor="y2")
    spec["layout"]["yaxis"].update(domain=[0.44, 1], zeroline=True)
    spec["layout"]["yaxis2"] = {"title": {"text": "student − teacher in dB"}, "domain": [0, 0.38], "zeroline": True}
    return spec


def _estimates(rows: Sequence[Mapping[str, Any]], name: str, figure: str, color: str, symbol: str = "circle") -> Spec:
    """One figure of every condition, with its interval."""
    found = [row[figure] for row in rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [[escape(row["kind"]) for row in rows], [escape(typeset(row["name"])) for row in rows]],
        "y": [estimate["mean"] for estimate in found],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [estimate["high"] - estimate["mean"] for estimate in found],
            "arrayminus": [estimate["mean"] - estimate["low"] for estimate in found],
            "color": color,
            "thickness": 1.5,
            "width": 3,
        },
        "hovertemplate": f"%{{x}}<br>{name}: %{{y:+.2f}} dB<extra></extra>",
        "marker": {"color": color, "size": 9, "symbol": symbol},
    }


def _line(name: str, x: Sequence[float], y: Sequence[float | None], color: str, shape: str = "linear") -> Spec:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": escape(name),
        "x": x,
        "y": y,
        "line": {"color": color, "width": 2, "shape": shape},
    }


def _spec(traces: Sequence[Spec], x_title: str, y_title: str, *, height: int, **layout: Any) -> Spec:
    return {
        "data": list(traces),
        "layout": {
            "height": height,
            "margin": {"l": 64, "r": 24, "t": 36, "b": 52},
            "xaxis": {"title": {"text": x_title}},
            "yaxis": {"title": {"text": y_title}},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            **layout,
        },
    }
