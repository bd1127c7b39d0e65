"""The section of a report on conditions that the networks were not trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from netgraft.report import figures
from netgraft.report.data import ReportData
from netgraft.report.markup import details, figure, number, section, table, typeset

Row = Mapping[str, Any]


def conditions(data: ReportData) -> str:
    """Teacher and student on other images than they were trained for."""
    found: Mapping[str, Any] = data.result.get("generalization") or {}
    rows: Sequence[Row] = found.get("conditions") or ()
    if not rows:
        return ""
    head = ["condition", *(f"{who} PSNR" for who in ("degraded", "teacher", "student"))]
    head += ["student − teacher", "against as trained", "breaks sooner"]
    broken = [row["breaks_sooner"] for row in rows]
    compared = table(head, [_cells(row, first=not i) for i, row in enumerate(rows)], marked=broken)
    height, width = found["size"]
    note = (
        f"Center crops of {len(found['images'])} test images, at most {width} × {height}; PSNR in dB, in brackets 95 % "
        "intervals over images, of differences in pairs. Blurs are made anew; noise, JPEG and exposure come on top of "
        "the test images' own degradation."
    )
    if len(found["images"]) < FEW:
        note += " Of so few images, intervals come out too narrow."
    plot = figure("conditions", figures.conditions(rows))
    folded = details(f"All {len(rows)} conditions, with intervals", compared)
    noted = f'<p class="note">{note}</p>'
    return section("conditions", "How it holds on other images", _lead(rows), plot, noted, folded)


FEW = 10
"""Of fewer images, bootstrap intervals come out too narrow."""


def _lead(rows: Sequence[Row]) -> str:
    broken = [row for row in rows if row["breaks_sooner"]]
    # Where the teacher does so too, it is what the two were trained for.
    harmed = [row for row in rows if row["student_gain_db"]["high"] < 0 <= row["teacher_gain_db"]["mean"]]
    lead = (
        "Above, what each network gains over the degraded image: below zero it does harm. Underneath, the student less "
        "its teacher on the same images; the dotted line is where it stands as trained. "
    )
    if not broken:
        lead += "Nowhere does the student fall further behind its teacher than as trained."
    else:
        worst = min(broken, key=lambda row: float(row["difference_to_trained_db"]["mean"]))
        lost = number(-worst["difference_to_trained_db"]["mean"], 2, "dB")
        lead += (
            f"The student breaks sooner than its teacher under {len(broken)} of {len(rows) - 1} conditions; most under "
            f"{escape(_label(worst))}, where it falls {lost} further behind than as trained."
        )
    if harmed:
        lead += f" It alone does harm under {escape(', '.join(map(_label, harmed)))}."
    return lead


def _label(row: Row) -> str:
    return f"{row['kind']}, {typeset(row['name'])}"


def _cells(row: Row, *, first: bool) -> list[str]:
    trained = "<br><small>trained on</small>" if row["trained_on"] and not first else ""
    return [
        f"{escape(_label(row))}{trained}",
        *(_estimate(row[f"{who}_db"]) for who in ("degraded", "teacher", "student")),
        _estimate(row["difference_db"], signed=True),
        "" if first else _estimate(row["difference_to_trained_db"], signed=True),
        "<b>yes</b>" if row["breaks_sooner"] else "",
    ]


def _estimate(found: Mapping[str, float], *, signed: bool = False) -> str:
    mean, low, high = (number(found[name], 2, signed=signed) for name in ("mean", "low", "high"))
    return f"{mean}<br><small>[{low}, {high}]</small>"
