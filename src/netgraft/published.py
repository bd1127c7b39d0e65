"""What arXiv 2601.11685 states, beside what was measured here: tables in Markdown.

Stated figures are those that its abstract and a summary of it repeat; docs/published.md says what does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

STATED: Mapping[str, Mapping[str, str]] = {
    "gopro": {"teacher": "35.80 / .980", "fastest": "33.76 / .942"},
    "hide": {"fastest": "30.36"},
    "realblur_j": {"teacher": "26.48 / .823", "fastest": "26.51 / .824"},
    "realblur_r": {"teacher": "33.82", "fastest": "33.82"},
}
"""PSNR in dB and SSIM of an unstated variant, by test set and network; alignment is not stated, and taken for none."""
STATED_COST = {
    "latency, ms": {"teacher": "177", "fastest": "147"},
    "GMACs": {"teacher": "65", "fastest": "68"},
    "parameters, M": {"teacher": "17.112"},
}
STATED_DPDD = {"teacher": "24.44 / .766", "student": "19.93", "student tuned": "26.87 / .818"}
"""On the indoor images."""
NETWORKS = ("teacher", "fastest", "knee")
TUNED = ("teacher", "teacher tuned", "student", "student tuned")


def paper_tables(figures: Mapping[str, Any]) -> str:
    """The tables of a reproduction, from the figures that it returned."""
    parts = [f"# {figures['paper']}: stated, and measured here"]
    if figures["tiny"]:
        parts.append("**In miniature, on look-alikes: nothing here says anything about any network.**")
    parts += [_quality(figures["evaluations"]), _cost(figures["refit"]), _adaptation(figures["evaluations"]["dpdd"])]
    return "\n\n".join(parts) + "\n"


def _quality(evaluations: Mapping[str, Any]) -> str:
    head = ["test set", "protocol", *(f"{name}, {side}" for name in NETWORKS for side in ("stated", "here"))]
    lines = []
    for name, told in evaluations.items():
        if name == "dpdd":
            continue
        row = [name.removesuffix("_aligned"), _protocol(told["protocol"])]
        for network in NETWORKS:
            row += [STATED.get(name, {}).get(network, ""), _score(told, network)]
        lines.append(row)
    return "## Quality\n\nPSNR, dB [95 %] / SSIM, 3-D / SSIM, per channel.\n\n" + _table(head, lines)


def _protocol(protocol: Mapping[str, Any]) -> str:
    whole = "" if protocol["published"] in (None, protocol["images"]) else f" of {protocol['published']}"
    aligned = "aligned" if protocol["alignment"] != "none" else "not aligned"
    return f"{protocol['images']}{whole} images, {protocol['inference']}, {protocol['bits']} bit, {aligned}"


def _score(told: Mapping[str, Any], network: str) -> str:
    means, interval = told["means"][network], told["intervals"][network]["psnr_db"]
    psnr = f"{_number(means['psnr_db'])} [{_number(interval['low'])}, {_number(interval['high'])}]"
    return f"{psnr} / {means['ssim']:.4f} / {means['ssim_matlab']:.4f}"


def _cost(refits: Mapping[str, Any]) -> str:
    device = next(iter(refits.values()))["device"]
    measured = {"teacher": refits["fastest"]["teacher"]} | {point: run["student"] for point, run in refits.items()}
    show: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
        "latency, ms": lambda row: f"{row['latency_ms']['median']:.1f}",
        "GMACs": lambda row: f"{row['macs'] / 1e9:.2f}",
        "parameters, M": lambda row: f"{row['params'] / 1e6:.3f}",
    }
    head = ["", *(f"{name}, {side}" for name in NETWORKS for side in ("stated", "here"))]
    lines = [
        [label, *(cell for name in NETWORKS for cell in (STATED_COST[label].get(name, ""), shown(measured[name])))]
        for label, shown in show.items()
    ]
    where = f"Stated: Samsung Galaxy S24 Ultra, its NPU. Here: {device['backend']} on {device['hardware']}."
    return f"## Cost\n\n{where}\n\n" + _table(head, lines)


def _adaptation(told: Mapping[str, Any]) -> str:
    head = ["images", *(f"{name}, {side}" for name in TUNED for side in ("stated", "here"))]
    lines = []
    for part in [*told["groups"], {"group": "all", "images": told["images"], "means": told["means"]}]:
        stated = STATED_DPDD if part["group"] == "indoor" else {}
        row = [f"{part['group']} ({part['images']})"]
        for name in TUNED:
            means = part["means"][name]
            row += [stated.get(name, ""), f"{_number(means['psnr_db'])} / {means['ssim']:.4f}"]
        lines.append(row)
    gaps = [
        f"- {row['of']} less {row['less']}: {_number(row['mean'])} dB [{_number(row['low'])}, {_number(row['high'])}]"
        for row in told["differences"]
        if row["less"] != "degraded"
    ]
    protocol = _protocol(told["protocol"])
    return f"## Adaptation to DPDD\n\nPSNR, dB / SSIM, 3-D; {protocol}.\n\n{_table(head, lines)}\n\n" + "\n".join(gaps)


def _number(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *lines))
