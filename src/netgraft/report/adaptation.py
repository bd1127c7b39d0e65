"""An adaptation as a page: student and teacher, tuned and not, and how the validation crops chose their weights."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from netgraft.report.figures import STUDENT, TEACHER, Spec
from netgraft.report.markup import figure, latency, number, pairs, plain, section, significant, table, words
from netgraft.report.page import page

FORMS = ("untuned", "tuned")
COLORS = {"student": STUDENT, "teacher": TEACHER}


def render_adaptation(figures: Mapping[str, Any]) -> str:
    """The figures of an adaptation's ``result.json`` as one HTML page: no network, no other files."""
    gap = figures["differences_db"]["student tuned - untuned"]
    lead = (
        f"With {plain(figures['images']['train'])} training images the student gains <b>{_gap(gap)}</b> on "
        f"{plain(figures['images']['test'])} test images: it restores them at "
        f"<b>{number(figures['student']['tuned']['psnr_db'], 2, 'dB')}</b>."
    )
    shown = (_numbers, _differences, _curve, _protocol)
    return page("A student for other images", lead, [show(figures) for show in shown], figures["created"])


def _networks(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (f"{name} {form}", figures[name][form]) for name in ("student", "teacher") if name in figures for form in FORMS
    ]


def _numbers(figures: Mapping[str, Any]) -> str:
    columns = [("degraded", figures["degraded"]), *_networks(figures)]
    rows = [
        ["PSNR", *(number(values["psnr_db"], 2, "dB") for _, values in columns)],
        ["95 % over images", *(_interval(values["psnr_db_interval"], 2) for _, values in columns)],
        ["SSIM", *(number(values["ssim"], 4) for _, values in columns)],
        ["95 % over images", *(_interval(values["ssim_interval"], 4) for _, values in columns)],
        ["latency, median [quartiles]", *(latency(values) for _, values in columns)],
        ["fp32 export differs by at most", *(significant(values.get("parity_max_abs")) for _, values in columns)],
    ]
    graphs = ", ".join(
        f"{name}: {'the same graph' if found['same_graph'] else '<b>another graph</b>'}"
        for name, found in figures["architecture"].items()
    )
    lead = f"All of them from one session. The exported files before and after have, node by node, {graphs}."
    return section("numbers", "Numbers", lead, table(["", *(name for name, _ in columns)], rows))


def _differences(figures: Mapping[str, Any]) -> str:
    rows = [
        [escape(label), number(gap["mean"], 2, "dB", signed=True), _interval(gap["interval"], 2)]
        for label, gap in figures["differences_db"].items()
    ]
    lead = "Over the images in pairs; an interval that holds 0 leaves open which is better."
    return section("differences", "Differences", lead, table(["", "mean PSNR", "95 % over images"], rows))


def _curve(figures: Mapping[str, Any]) -> str:
    traces: list[Spec] = []
    lines = []
    for name, course in figures["adaptation"].items():
        x, y = ([look[axis] for look in course["curve"]] for axis in ("step", "psnr_db"))
        line = {"color": COLORS[name], "width": 2}
        traces.append({"type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": y, "line": line})
        lines.append(f"{name}: step {course['best_step']} of {course['steps']}")
    layout = {
        "height": 380,
        "xaxis": {"title": {"text": "steps"}},
        "yaxis": {"title": {"text": "PSNR of the validation crops in dB"}},
        "margin": {"l": 60, "r": 16, "t": 16, "b": 48},
        "legend": {"orientation": "h", "y": 1.08},
    }
    lead = f"The weights that did best on them are those that ship; {escape(', '.join(lines))}."
    return section("curve", "Validation", lead, figure("curve", {"data": traces, "layout": layout}))


def _protocol(figures: Mapping[str, Any]) -> str:
    terms = [
        (f"{words(part)}, {words(name)}", plain(value))
        for part, entries in figures["protocol"].items()
        if isinstance(entries, Mapping)
        for name, value in entries.items()
    ]
    return section("protocol", "How the figures came about", "So that others can be compared with them.", pairs(terms))


def _interval(interval: tuple[float, float], digits: int) -> str:
    low, high = interval
    return f"[{number(low, digits)}, {number(high, digits)}]"


def _gap(gap: Mapping[str, Any]) -> str:
    return f"{number(gap['mean'], 2, 'dB', signed=True)} {_interval(gap['interval'], 2)}"
