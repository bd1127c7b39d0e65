"""A run, or an adaptation, as one self-contained HTML page."""

from netgraft.report.adaptation import render_adaptation
from netgraft.report.data import (
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
from netgraft.report.page import render

__all__ = [
    "AdditivityCheck",
    "Crop",
    "EvaluationRow",
    "FinetuneRow",
    "ForeseenRow",
    "ImageRow",
    "LatencyRow",
    "RefusedRow",
    "ReportData",
    "SiteRow",
    "render",
    "render_adaptation",
]
