"""What a reader must know before trusting a run's figures, a sentence or two each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from netgraft.delivered import precision_warning
from netgraft.devices import DRIFT_PERCENT
from netgraft.stages import Run
from netgraft.stages.delivery import Delivery
from netgraft.stages.transfer import Transfer


def all_warnings(run: Run, precisions: Mapping[str, Mapping[str, Any]], limits: Mapping[str, Any]) -> list[str]:
    """Every warning of a run; precisions: as in ``result.json``, by device; limits: as there."""
    found: list[str] = []
    for delivery in run.measured:
        told = delivery.bench.told
        found += map(told, warnings_of(precisions[delivery.bench.name], delivery.drift_percent))
        more = (transfer_warning(delivery.bench.transfer), parity_warning(delivery) if run.several else None)
        found += [told(warning) for warning in more if warning]
    of_the_space = filter(None, [space_warning(run.space.options), run.choice_warning])
    return [*found, *lost_warnings(run.lost), *of_the_space, *limit_warnings(limits)]


def space_warning(options: Sequence[Sequence[str]]) -> str | None:
    """That there was nothing to search; options: operators on offer by site, the teacher's own block first."""
    if any(len(names) > 1 for names in options):
        return None
    return (
        "No replacement is both faster and near enough to the teacher's own blocks here: the student is the teacher, "
        "fine-tuned. Name other operators, protect fewer sites, or measure again on a quiet machine."
    )


def lost_warnings(lost: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Operators that one device takes from all; lost: at how many sites, by device and operator."""
    return [
        f"{device} does not run {_listed(f'{name} at {count} sites' for name, count in operators.items())}, "
        "which other devices of this run do: one student serves all, so that these options left the space."
        for device, operators in lost.items()
    ]


def parity_warning(delivery: Delivery) -> str | None:
    """That a device computes something else than PyTorch from the file that ships; None if it does not."""
    refused = delivery.parity.get("refused")
    return f"What it computes of the student's file is not what PyTorch does: {refused}." if refused else None


def limit_warnings(limits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Limits that the search kept to and the student as it is delivered does not."""
    return [
        f"{name} = {row['limit']:g} was met in the search ({row['searched']:.6g}), but not by the student as delivered "
        f"({row['delivered']:.6g}): set a lower limit to leave room."
        for name, row in limits.items()
        if not row["met"]
    ]


def warnings_of(precision: Mapping[str, Any], drift: Mapping[str, float]) -> list[str]:
    """What a reader must know before trusting a run's figures; precision: as in ``result.json``."""
    return [warning for warning in (precision_warning(precision), drift_warning(drift)) if warning]


def drift_warning(percent: Mapping[str, float]) -> str | None:
    """What is wrong with timing sessions, given how much slower than the middle one each was; None if all compare."""
    apart = [f"{name} {value:+.0f}\N{NO-BREAK SPACE}%" for name, value in percent.items() if abs(value) > DRIFT_PERCENT]
    if not apart:
        return None
    return (
        f"The machine changed its speed between timing sessions, by what one block took in each: {', '.join(apart)} "
        "against the middle one. Latencies of these do not compare with others: delete artifacts/profile and "
        "artifacts/measure in the run folder, and run again when the machine is quiet."
    )


def transfer_warning(transfer: Transfer | None) -> str | None:
    """That latencies were predicted, or that they were to be and were not; None if all are measured as usual."""
    if transfer is None:
        return None
    if transfer.reason is not None or transfer.prediction is None:
        return f"The base tables did not serve this device, so all of its blocks were measured: {transfer.reason}."
    return (
        f"Latencies of blocks were predicted from other devices' tables and {len(transfer.probes)} blocks that were "
        f"measured (expected rank correlation {transfer.prediction.expected_spearman:.3f})."
    )


def _listed(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
