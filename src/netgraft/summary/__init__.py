"""What a finished run says: ``result.json``, and the data of its report."""

from netgraft.summary.figures import result
from netgraft.summary.report import report_data
from netgraft.summary.warnings import (
    drift_warning,
    limit_warnings,
    lost_warnings,
    space_warning,
    transfer_warning,
    warnings_of,
)

__all__ = [
    "drift_warning",
    "limit_warnings",
    "lost_warnings",
    "report_data",
    "result",
    "space_warning",
    "transfer_warning",
    "warnings_of",
]
