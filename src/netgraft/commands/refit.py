"""The commands that work on a run folder: the whole run, or one of its stages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from netgraft.commands.console import Json, Out, finish, out_console, progress_bars
from netgraft.config import PRESETS, RunConfig, load_config, parse_config, stored_config
from netgraft.errors import ConfigError
from netgraft.files import write_atomically
from netgraft.names import lookup
from netgraft.store import ADAPTATION, RunStore

Config = Annotated[Path | None, typer.Argument(help="A TOML config.", show_default=False)]
Preset = Annotated[str | None, typer.Option(help="Start from a preset: demo, full, npu, paper, tiny.")]
TeacherFile = Annotated[
    Path | None, typer.Option("--teacher", help="A checkpoint, of a NAFNet or MAXIM; by default the embedded one.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", help="package.module:factory that makes a network of your own; --teacher then holds its weights."
    ),
]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device", help="A device of `netgraft devices`; again for each further one that the student is to be fast on."
    ),
]
MaxLoss = Annotated[
    float | None,
    typer.Option("--max-loss-db", help="The student is the fastest one that loses at most this before fine-tuning."),
]
MaxLatency = Annotated[
    float | None, typer.Option("--max-latency-ms", help="Hard limit: the student's predicted latency, on each device.")
]
MaxMacs = Annotated[float | None, typer.Option("--max-macs", help="Hard limit: its multiply-accumulates.")]
MaxParams = Annotated[float | None, typer.Option("--max-params", help="Hard limit: its parameters.")]
MaxSize = Annotated[float | None, typer.Option("--max-size-bytes", help="Hard limit: 4 bytes for each of its weights.")]
MinPsnr = Annotated[
    float | None,
    typer.Option("--min-psnr-db", help="Hard limit: its PSNR on the validation crops before fine-tuning."),
]

Joint = Annotated[
    str | None,
    typer.Option(
        "--joint", help="What several devices have minimized: the slowest's latency (slowest), or each one's."
    ),
]
Base = Annotated[
    list[Path] | None,
    typer.Option(
        "--base",
        help="Another device's latency_table.json, again for each: few blocks are measured, the rest predicted.",
    ),
]
Compute = Annotated[str | None, typer.Option(help="Where PyTorch trains and judges: cpu, or cuda.")]

Work = Callable[[RunConfig, Path], dict[str, Any]]
"""Does what a command is for in a run folder, shows it, and returns its document."""


def _command(work: Work, description: str | None) -> Callable[..., None]:
    """A command with the options that all have that work on a run folder."""

    def command(
        out: Out,
        config: Config = None,
        preset: Preset = None,
        teacher: TeacherFile = None,
        model: Model = None,
        device: Devices = None,
        max_loss_db: MaxLoss = None,
        max_latency_ms: MaxLatency = None,
        max_macs: MaxMacs = None,
        max_params: MaxParams = None,
        max_size_bytes: MaxSize = None,
        min_psnr_db: MinPsnr = None,
        base: Base = None,
        joint: Joint = None,
        compute: Compute = None,
        as_json: Json = False,
    ) -> None:
        chosen = _config(
            out,
            config,
            preset,
            teacher,
            model,
            device,
            base,
            compute,
            max_loss_db=max_loss_db,
            max_latency_ms=max_latency_ms,
            max_macs=max_macs,
            max_params=max_params,
            max_size_bytes=max_size_bytes,
            min_psnr_db=min_psnr_db,
            joint=joint,
        )
        finish(work(chosen, out), as_json)

    command.__doc__ = description
    return command


def _refit(config: RunConfig, out: Path) -> dict[str, Any]:
    """Refit a network: every stage, from the checkpoint to the exported student and its report."""
    from netgraft.pipeline import refit
    from netgraft.tables import result_table

    with progress_bars() as progress:
        figures = refit(config, out, progress)
    out_console.print(result_table(figures))
    out_console.print(f"report: {out / 'report.html'}")
    return figures


run = _command(_refit, _refit.__doc__)


def stage_command(name: str) -> Callable[..., None]:
    """The command that runs one stage, and what it needs, in a run folder."""

    def work(config: RunConfig, out: Path) -> dict[str, Any]:
        from netgraft.pipeline import STAGES
        from netgraft.stages import Run
        from netgraft.tables import stage_table

        store = RunStore(out)
        with progress_bars() as progress, store.lock():
            this = Run(config, store, progress)
            STAGES[name](this)
            table, document = stage_table(name, this)
        out_console.print(table)
        out_console.print(f"artifacts: {out}")
        return dict(document)

    return _command(work, None)


def _config(
    out: Path,
    path: Path | None,
    preset: str | None,
    teacher: Path | None,
    model: str | None,
    devices: list[str] | None,
    base: list[Path] | None,
    compute: str | None,
    **search: float | str | None,
) -> RunConfig:
    """The config of a run folder: from the arguments, or the one that the folder was begun with.

    search: settings of the search by name; those that are None stay as they are.
    """
    stored = out / "config.json"
    if (out / ADAPTATION).is_file():
        raise ConfigError(f"{out}: holds an adaptation; choose another --out")
    if path is not None and preset is not None:
        raise ConfigError('name a config or a --preset, not both; a config can begin with preset = "NAME"')
    if path is not None:
        config = load_config(path)
    elif preset is not None:
        config = lookup("preset", preset, PRESETS)()
    else:
        begun = stored_config(out)
        if begun is None:
            raise ConfigError(f"{out} holds no run yet: name a config, or --preset demo")
        config = begun
    values = config.model_dump(mode="json")
    if teacher is not None:
        values["teacher"]["path"] = str(teacher)
    if model is not None:
        values["teacher"]["factory"] = model
    if devices:
        values["device"] |= {"name": devices[0], "also": devices[1:]}
    if base:
        values["device"]["base_tables"] = [str(table) for table in base]
    if compute is not None:
        values["compute"] = compute
    values["search"] |= {name: value for name, value in search.items() if value is not None}
    config = parse_config(values, "netgraft")
    RunStore(out)
    write_atomically(stored, json.dumps(config.model_dump(mode="json"), indent=1).encode())
    return config
