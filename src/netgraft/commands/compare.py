"""Networks side by side: the same images by the same protocol, and one session on one device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from netgraft.commands.console import (
    DataRoot,
    Degradation,
    Json,
    Strength,
    check_outputs,
    data_of,
    finish,
    out_console,
    progress_bars,
)
from netgraft.commands.evaluate import bits_of

if TYPE_CHECKING:
    from netgraft.comparison import Timed
    from netgraft.judgement import Judgement


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="NAME=FILE, .onnx, .pth or .safetensors; a run's folder; 'embedded'. All against the first."
        ),
    ],
    dataset: Annotated[str, typer.Option(help="As for netgraft evaluate.")] = "embedded",
    root: DataRoot = None,
    split: Annotated[str, typer.Option(help="Split; by default the one that figures are published for.")] = "",
    degradation: Degradation = None,
    strength: Strength = None,
    inference: Annotated[
        Literal["whole", "tiles", "crop"], typer.Option(help="Whole images, tiles, or the central crop of each.")
    ] = "tiles",
    size: Annotated[int, typer.Option(min=16, help="Side of tiles or crops, and of what is timed.")] = 256,
    tlc: Annotated[int | None, typer.Option(min=16, help="Training crop, for local statistics of NAFNets.")] = None,
    bits: Annotated[int | None, typer.Option(help="8 or 16 bits a channel; by default the data set's.")] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="Align restored images first, as RealBlur is.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Accept an incomplete data set.")] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Look at all pairs before any is used.")] = True,
    device: Annotated[str, typer.Option(help="Where they are timed; see netgraft devices.")] = "onnxruntime",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the device.")] = 1,
    samples: Annotated[int, typer.Option(min=1, help="Timing samples of each network.")] = 30,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write everything here, as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Put networks side by side: quality by one protocol, latency in one session, differences in pairs to the first."""
    from netgraft.comparison import example_of, time_entrants
    from netgraft.data.testset import open_test_set
    from netgraft.devices import MeasureProtocol, open_device
    from netgraft.entrants import open_entrants
    from netgraft.files import write_atomically
    from netgraft.judgement import document, judge, rows

    data = data_of("netgraft compare", dataset, root, degradation, strength)
    check_outputs(out)
    timer = open_device(device, threads)
    entrants = open_entrants(models, tlc=tlc)
    protocol = MeasureProtocol(samples=samples)
    with progress_bars() as progress:
        tests = open_test_set(
            data,
            split,
            limit=limit,
            partial=partial,
            check=check,
            threads=2,
            progress=lambda done, total: progress("check", done, total),
        )
        progress("time", 0, 1)
        timed = time_entrants(entrants, timer, example_of(tests.images[0].degraded, (size, size)), protocol)
        progress("time", 1, 1)
        judgement = judge(
            entrants,
            tests,
            inference=inference,
            side=None if inference == "whole" else size,
            bits=bits_of(bits, tests.bits, aligned=aligned),
            aligned=aligned,
            progress=lambda d, n: progress("evaluate", d, n),
        )
    told = document(judgement) | {
        "device": timer.description.as_dict(),
        "latency_protocol": protocol.as_dict() | {"size": [size, size]},
        "costs": {name: _costs(one) for name, one in timed.items()},
    }
    if out is not None:
        content = json.dumps(told | {"scores": rows(judgement)}, indent=1, allow_nan=False)
        write_atomically(out, content.encode())
    _show(judgement, timed, timer.description.backend, size)
    finish(told, as_json)


def _costs(timed: Timed) -> dict[str, Any]:
    from netgraft.devices import Unsupported

    if isinstance(timed.latency, Unsupported):
        return {"params": timed.params, "refused": timed.latency.reason}
    ms = timed.latency
    return {"params": timed.params, "latency_ms": {"median": ms.median_ms, "q25": ms.q25_ms, "q75": ms.q75_ms}}


def _show(judgement: Judgement, timed: dict[str, Timed], backend: str, size: int) -> None:
    protocol, first = judgement.protocol, next(iter(timed))
    out_console.print(_quality(judgement, first))
    out_console.print(_cost(timed, first, f"{backend}, {size}x{size}"))
    out_console.print(
        f"Protocol: {protocol.degradation}; {protocol.inference}; {protocol.bits}-bit RGB. In brackets: 95 %, "
        f"bootstrap {judgement.evaluations['degraded'].resampled}, of differences in pairs. Quartiles: of samples "
        "taken in turns.",
        style="dim",
    )


def _quality(judgement: Judgement, first: str) -> Table:
    from netgraft.entrants import DEGRADED

    view = Table(title=f"{judgement.protocol.images} images of {judgement.protocol.dataset}")
    for column in ("", "PSNR, dB", f"less {first}", "SSIM"):
        view.add_column(column, justify="right" if column else "left")
    for name, evaluation in judgement.evaluations.items():
        beside = name not in (DEGRADED, first)
        gap = evaluation.less(judgement.evaluations[first]).text(sign=True) if beside else ""
        view.add_row(name, evaluation.estimate().text(), gap, f"{evaluation.mean('ssim'):.4f}")
    return view


def _cost(timed: dict[str, Timed], first: str, title: str) -> Table:
    from netgraft.devices import Unsupported

    reference = timed[first].latency
    view = Table(title=title)
    for column in ("", "ms (quartiles)", "times as fast", "parameters"):
        view.add_column(column, justify="right" if column else "left")
    for name, one in timed.items():
        ms, params = one.latency, f"{one.params / 1e6:.2f} M"
        if isinstance(ms, Unsupported):
            view.add_row(name, f"not timed: {ms.reason}", "", params)
        else:
            faster = "" if isinstance(reference, Unsupported) else f"{reference.median_ms / ms.median_ms:.2f}"
            view.add_row(name, f"{ms.median_ms:.1f} ({ms.q25_ms:.1f}, {ms.q75_ms:.1f})", faster, params)
    return view
