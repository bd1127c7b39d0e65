"""What all commands share: where they print, how progress shows, and their common options."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from netgraft.config import parse_config
from netgraft.data.images import SHARP_SOURCES, DataConfig
from netgraft.errors import ConfigError
from netgraft.files import make_folder
from netgraft.stages import Progress

out_console = Console(highlight=False)
err_console = Console(stderr=True, highlight=False)

LINE_SECONDS = 30
"""Where stderr is no terminal, a long command says this often how far it is."""

Out = Annotated[Path, typer.Option("--out", "-o", help="Run folder; the same command continues what is in it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document as the last line of stdout.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder of the data set.")]
Degradation = Annotated[str | None, typer.Option(help="shake (if not said), defocus or noise, for sharp photographs.")]
Strength = Annotated[
    tuple[float, float] | None,
    typer.Option(help="Least and most of it: pixels; of noise, 8-bit steps. By default as for netgraft adapt."),
]


def check_outputs(*paths: Path | None) -> None:
    """Refuse files that cannot be written, before the work for them is done.

    Raises:
        ConfigError: one is a folder, or lies in what is none.
    """
    for path in filter(None, paths):
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; name a file in it")
        make_folder(path.parent)


def data_of(
    command: str, dataset: str, root: Path | None, degradation: str | None, strength: tuple[float, float] | None
) -> DataConfig:
    """The images that a command names.

    Raises:
        ConfigError: there is no such data set, or a setting does not fit it.
    """
    named = {"--degradation": degradation, "--strength": strength}
    options = " and ".join(name for name, value in named.items() if value is not None)
    if options and dataset not in SHARP_SOURCES:
        raise ConfigError(f"{dataset}: its images come degraded, {options} would change nothing: leave it out")
    given = {"source": dataset, "root": root, "degradation": degradation, "strength_px": strength}
    return parse_config({"data": {name: value for name, value in given.items() if value is not None}}, command).data


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Progress on stderr: bars, one a stage, on a terminal; elsewhere now and then a line."""
    if err_console.is_terminal:
        with _bars() as progress:
            yield progress
    else:
        yield _Lines()


class _Lines:
    """Progress for a log: a line every half minute, so that a short command prints nothing but its outcome."""

    def __init__(self) -> None:
        self._last = monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if monotonic() - self._last >= LINE_SECONDS:
            self._last = monotonic()
            err_console.print(f"{stage} {done}/{total}", soft_wrap=True)


@contextmanager
def _bars() -> Iterator[Progress]:
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=err_console) as bars:
        tasks: dict[str, Any] = {}
        # Devices that are measured at the same time tell of it at the same time.
        one_by_one = threading.Lock()

        def progress(stage: str, done: int, total: int) -> None:
            name = stage.split(maxsplit=1)[0]
            with one_by_one:
                if name not in tasks:
                    for task in tasks.values():
                        bars.update(task, completed=bars.tasks[task].total)
                    tasks[name] = bars.add_task(stage, total=total)
                bars.update(tasks[name], description=stage, completed=done, total=total)

        yield progress
        for task in tasks.values():
            bars.update(task, completed=bars.tasks[task].total)


def finish(document: Any, as_json: bool) -> None:
    """Print the document that ``--json`` promises."""
    if as_json:
        sys.stdout.write(json.dumps(document, default=str) + "\n")
