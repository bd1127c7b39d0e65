"""The section of a report on conditions that the networks were not trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from netgraft.report import figures
from netgraft.report.data import ReportData
from netgraft.report.markup import figure, number, section, table

Row = Mapping[str, Any]


def conditions(data: ReportData) -> str:
    """Teacher and student on other images than they were trained for."""
    found: Mapping[str, Any] = data.result.get("generalization") or {}
    rows: Sequence[Row] = found.get("conditions") or ()
    if not rows:
        return ""
    head = ["condition", "trained on", *(f"{who} PSNR" for who in ("degraded", "teacher", "student"))]
    head += ["student − teacher", "further than as trained", "breaks sooner"]
    broken = [row["breaks_sooner"] for row in rows]
    compared = table(head, [_cells(row, first=not i) for i, row in enumerate(rows)], text_columns=2, marked=broken)
    height, width = found["size"]
    note = (
        f"Center crops of {len(found['images'])} test images, at most {width} × {height}; PSNR in dB, in brackets 95 % "
        "intervals over images, of differences in pairs. Blurs are made anew; noise, JPEG and exposure come on top of "
        "the test images' own degradation."
    )
    if len(found["images"]) < FEW:
        note += " Of so few images, intervals come out too narrow."
    plot = figure("conditions", figures.conditions(rows))
    return section(
        "conditions", "How it holds on other images", _lead(rows), plot, compared, f'<p class="note">{note}</p>'
    )


FEW = 10
"""Of fewer images, bootstrap intervals come out too narrow."""


def _lead(rows: Sequence[Row]) -> str:
    broken = [row for row in rows if row["breaks_sooner"]]
    # Of little use is not worse than doing nothing for one of them alone.
    harmed = [row for row in rows if row["student_gain_db"]["mean"] < 0 <= row["teacher_gain_db"]["mean"]]
    lead = "The gain over the degraded image; below zero a network does harm. "
    if not broken:
        lead += "Nowhere does the student fall further behind its teacher than on the images it was trained for."
    else:
        worst = min(broken, key=lambda row: float(row["difference_to_trained_db"]["mean"]))
        lost = number(-worst["difference_to_trained_db"]["mean"], 2, "dB")
        lead += (
            f"The student breaks sooner than its teacher under {len(broken)} of {len(rows) - 1} conditions; most under "
            f"{escape(_label(worst))}, where it falls {lost} further behind than on the images it was trained for."
        )
    if harmed:
        lead += f" It alone does harm under {escape(', '.join(map(_label, harmed)))}."
    return lead


def _label(row: Row) -> str:
    return f"{row['kind']} {row['name']}"


def _cells(row: Row, *, first: bool) -> list[str]:
    kind, name = escape(row["kind"]), escape(row["name"].replace("-", "–"))
    return [
        f"<b>{name}</b>" if first else f"{kind}, {name}",
        "yes" if row["trained_on"] else "",
        *(_estimate(row[f"{who}_db"]) for who in ("degraded", "teacher", "student")),
        _estimate(row["difference_db"], signed=True),
        "" if first else _estimate(row["difference_to_trained_db"], signed=True),
        "<b>yes</b>" if row["breaks_sooner"] else "",
    ]


def _estimate(found: Mapping[str, float], *, signed: bool = False) -> str:
    mean, low, high = (number(found[name], 2, signed=signed) for name in ("mean", "low", "high"))
    return f"{mean} <small>[{low}, {high}]</small>"
