"""Latency against PSNR, a panel for each runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from peer.table import TEACHERS, Row, joint_front, teacher_of

LOOKS = {
    "teacher": ("s", "#667085"),
    "netgraft": ("o", "#0e9384"),
    "netgraft, then int8": ("D", "#0e9384"),
    "the paper's recipe": ("P", "#7a5af8"),
    "channels pruned": ("v", "#dc6803"),
    "int8": ("D", "#d6457f"),
    "smaller, distilled": ("^", "#1570ef"),
    "smaller, from scratch": ("X", "#101828"),
}
"""Marker and color of each family."""
LINEAR_DB = 0.2
"""Differences smaller than this are drawn to scale, larger ones compressed: most of what matters is near zero."""
DB_TICKS = (0.2, 0.1, 0.0, -0.1, -0.2, -0.5, -1.0, -2.0, -4.0)
MS_TICKS = (2, 5, 10, 20, 30, 50, 70, 100, 200, 500)
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def draw(rows: Sequence[Row], label: str, images: int, path: Path) -> None:
    """Medians with quartiles across, mean PSNR less the teacher's with its bootstrap interval up and down."""
    runtimes = [runtime for runtime in TEACHERS if any(row.runtime == runtime for row in rows)]
    figure, axes = plt.subplots(
        1, len(runtimes), figsize=(11, 5.2), dpi=130, sharey=True, squeeze=False, width_ratios=[5, 3][: len(runtimes)]
    )
    for panel, runtime in zip(axes[0], runtimes, strict=True):
        here = [row for row in rows if row.runtime == runtime]
        _panel(panel, here, label, joint_front(rows, label, runtime))
        panel.set_title(f"{TITLES[runtime]}, one thread", fontsize=11)
    axes[0][0].set_ylabel(
        f"PSNR less the teacher's in dB, compressed beyond {LINEAR_DB:g}\n"
        f"mean over {images} test photographs, 95 % bootstrap interval"
    )
    figure.supxlabel("latency at 256x256 in ms, log scale, median and quartiles", fontsize=10, y=0.11)
    families = [family for family in LOOKS if any(row.family == family for row in rows)]
    handles = [
        plt.Line2D([], [], marker=LOOKS[f][0], color=LOOKS[f][1], linestyle="", markersize=7, label=f) for f in families
    ]
    handles.append(plt.Line2D([], [], color="#98a2b3", linewidth=1.2, label="front of all candidates"))
    figure.legend(handles=handles, loc="lower center", ncol=5, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _panel(panel: Axes, rows: Sequence[Row], label: str, front: Sequence[str]) -> None:
    teacher = teacher_of(rows, rows[0].runtime)
    points = {row.name: (row.latency.median_ms, row.less(teacher, label)[0]) for row in rows}
    xs, ys = zip(*(points[name] for name in front), strict=True)
    # A step: between two candidates nothing better is known than the faster one.
    panel.step(xs, ys, where="post", color="#98a2b3", linewidth=1.2, zorder=1)
    for row in rows:
        marker, color = LOOKS[row.family]
        ms, (gain, low, high) = row.latency, row.less(teacher, label)
        panel.errorbar(
            ms.median_ms,
            gain,
            xerr=[[ms.median_ms - ms.q25_ms], [ms.q75_ms - ms.median_ms]],
            yerr=[[max(0.0, gain - low)], [max(0.0, high - gain)]],
            marker=marker,
            color=color,
            markersize=7,
            elinewidth=0.9,
            zorder=3,
        )
        ours = row.family == "netgraft"
        panel.annotate(
            row.name.removeprefix("ov-").removeprefix("netgraft-" if ours else ""),
            (ms.median_ms, gain),
            # Ours to the upper left, peers to the lower right: they crowd where both are good.
            xytext=(-5, 5) if ours else (6, -4),
            textcoords="offset points",
            ha="right" if ours else "left",
            va="bottom" if ours else "top",
            fontsize=7.5,
            color=color,
        )
    panel.axhline(0, color="#d0d5dd", linewidth=0.8, zorder=0)
    panel.set_xscale("log")
    panel.set_yscale("symlog", linthresh=LINEAR_DB, linscale=1.2)
    panel.xaxis.set_major_locator(FixedLocator(MS_TICKS))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_locator(FixedLocator(DB_TICKS))
    panel.yaxis.set_major_formatter(lambda db, _: f"{db:+g}" if db else "0")
    panel.margins(x=0.18)
    panel.grid(alpha=0.3)
