"""The whole run, from a pretrained network to a deployable one with its report.

    teacher -> sites -> saliency -> surrogates -> latencies -> search -> student -> exports -> figures -> report

Each stage pulls in the ones before it and keeps what it made in the run folder (see :mod:`netgraft.stages`), so
that the same call continues wherever an earlier one was stopped.
"""

# ruff: noqa: B018
# Naming a stage runs it.

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from netgraft.adapt import AdaptConfig
from netgraft.adapted import adapted
from netgraft.compute import check_compute
from netgraft.config import RunConfig
from netgraft.report import render, render_adaptation
from netgraft.stages import AdaptStages, Progress, Run, Start, silent
from netgraft.store import RunStore
from netgraft.summary import report_data, result


def refit(config: RunConfig, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Refit a network and return its figures, which also stand in ``out/result.json``.

    Raises:
        NetgraftError: the config, the images, the device or the folder cannot serve; what was done is kept.
    """
    check_compute(config.compute)
    store = RunStore(out)
    with store.lock():
        run = Run(config, store, progress)
        run.open_devices()  # what it is for: one that is missing is noticed before anything is trained
        run.sites  # where blocks may be replaced
        run.saliency  # how much each is expected to matter
        run.protection  # which of them keep the teacher's block
        run.check_counts()  # whether its limits can be met at all
        run.surrogates  # a replacement for every operator at every site, trained on the teacher's features
        profile(run)  # what each of them costs on each device, and whether block latencies add up to whole networks
        run.space  # the options that are worth searching
        run.search  # the front of quality against latency, from what each is foreseen to lose; no network trained
        run.baselines  # the same by other methods, where asked for
        run.finetuned  # the chosen one, fine-tuned from end to end
        run.exports  # as files that ship, with parity
        run.portable  # and as one that PyTorch goes on from, without this folder
        run.single_evaluations  # on test images, by which nothing but the precision is chosen
        for delivery in run.deliveries:
            delivery.forms  # and in each device's own precision, where that has fewer bits
            delivery.reduced_evaluations  # on the same, through the device's runtime
        run.measured  # teacher and student, whole, in turns, in the precision that is delivered, on each device
        return write_report(run)


def adapt(start: Start, config: AdaptConfig, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Fine-tune a student, and its teacher beside it, to other images; return the figures, which also stand in
    ``out/result.json``, and in ``out/report.html`` to look at.

    Raises:
        NetgraftError: the images, the device or the folder cannot serve; what was done is kept.
    """
    check_compute(config.compute)
    store = RunStore(out)
    with store.lock():
        work = AdaptStages(start, config, store, progress)
        work.device  # what its latency is measured on: one that is missing is noticed before anything is trained
        work.source, work.validation, work.test_images  # the images that teach, choose, and are reported on, likewise
        work.begin()  # whether the folder is free for it
        work.tuned  # student and teacher, each with the weights that did best on validation crops
        work.weights  # as files for PyTorch
        work.exports  # as files that ship, with parity; those that were not tuned beside them
        work.evaluations  # all of them on test images, by which nothing is chosen
        work.latencies  # student and teacher, tuned and not, in turns
        figures = adapted(work)
        store.write(out / "result.json", json.dumps(figures, indent=1, allow_nan=False).encode())
        store.write(out / "report.html", render_adaptation(figures).encode())
        return figures


def profile(run: Run) -> None:
    """Measure the blocks and whole networks, and write the tables, which other devices' runs may take as a base."""
    for bench in run.profiled:
        run.store.write(run.store.root / bench.table_file, bench.latency_table.to_json().encode())
        bench.additivity


def write_report(run: Run) -> dict[str, Any]:
    """Write ``result.json`` and ``report.html`` from what the stages made, and return the figures."""
    figures = result(run)
    run.store.write(run.store.root / "result.json", json.dumps(figures, indent=1, allow_nan=False).encode())
    run.store.write(run.store.root / "report.html", render(report_data(run, figures)).encode())
    return figures


STAGES: Mapping[str, Callable[[Run], Any]] = MappingProxyType(
    {
        "saliency": lambda run: run.saliency,
        "distill": lambda run: run.surrogates,
        "profile": profile,
        "search": lambda run: run.search,
        "finetune": lambda run: run.finetuned,
        "export": lambda run: (run.exports, run.portable, [delivery.forms for delivery in run.deliveries]),
        "report": write_report,
    }
)
"""The stages that can be asked for one by one; each runs what it needs."""
