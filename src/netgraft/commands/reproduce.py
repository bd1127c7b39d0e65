"""The paper's experiment, as one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from netgraft.commands.console import Json, finish, out_console, progress_bars
from netgraft.errors import ConfigError

PAPERS = ("paper",)


def reproduce(
    what: Annotated[str, typer.Argument(help="paper: arXiv 2601.11685.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder of GOPRO_Large, HIDE_dataset, RealBlur and dd_dp_dataset_canon.")
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="The official NAFNet-GoPro-width32.pth.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for everything; the same command continues what is in it."),
    ] = None,
    compute: Annotated[str, typer.Option(help="Where PyTorch trains and judges: cpu, or cuda.")] = "cpu",
    device: Annotated[str, typer.Option(help="Where latencies are measured; see netgraft devices.")] = "onnxruntime",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the device.")] = 1,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what it would cost, and stop; needs no data.")
    ] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Look at every test pair beforehand.")] = True,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="In miniature, on any images in the data sets' layouts.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Repeat the experiment of arXiv 2601.11685: refit on GoPro, judge on GoPro, HIDE and RealBlur, adapt to DPDD."""
    from netgraft.compute import check_compute
    from netgraft.cost import estimate_seconds, measure_speed
    from netgraft.devices import timed_kind
    from netgraft.files import make_folder, write_atomically
    from netgraft.published import paper_tables
    from netgraft.reproduction import Experiment, official, require_data
    from netgraft.reproduction import reproduce as repeat

    if what not in PAPERS:
        raise ConfigError(f"cannot reproduce {what!r}: the choices are {', '.join(PAPERS)}")
    experiment = Experiment(
        teacher=teacher,
        root=root,
        compute=check_compute(compute),
        device=device,
        threads=threads,
        check=check,
        tiny=tiny,
    )
    timed_kind(device)
    if out is not None and not estimate:
        make_folder(out)
    given = {"--root": root, "--teacher": teacher, "--out": out}
    missing = [option for option, value in given.items() if value is None]
    if missing and not estimate:
        raise ConfigError(f"to reproduce the paper, give {', '.join(missing)} as well; only --estimate needs nothing")
    counts, network = require_data(experiment), official(experiment)
    seconds = estimate_seconds(experiment, network, counts, measure_speed(experiment, network))
    out_console.print(_estimate_table(seconds, compute))
    if estimate or out is None:
        finish({"estimated_seconds": seconds}, as_json)
        return
    with progress_bars() as progress:
        figures = repeat(experiment, out, progress)
    tables = paper_tables(figures)
    write_atomically(out / "tables.md", tables.encode())
    out_console.print(tables, markup=False, soft_wrap=True)
    out_console.print(f"tables: {out / 'tables.md'}", soft_wrap=True)
    finish({"estimated_seconds": seconds} | figures, as_json)


def _estimate_table(seconds: dict[str, float], compute: str) -> Table:
    table = Table(title=f"estimated, with PyTorch on {compute}; what is already done is not done again")
    table.add_column("")
    table.add_column("time", justify="right")
    for name, value in seconds.items():
        table.add_row(name, _duration(value))
    table.add_section()
    table.add_row("in all", _duration(sum(seconds.values())))
    return table


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
