"""The command line: read the arguments, call the library, print what came out and where it is.

Exit codes: 0 done; 2 the input is wrong, in one line on stderr; 1 a bug of ours, with its traceback.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from netgraft.errors import ConfigError, ImageError, NetgraftError

app = typer.Typer(
    help="Refit a pretrained image-restoration network to the device it ships on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out_console = Console(highlight=False)
err_console = Console(stderr=True, highlight=False)

Out = Annotated[Path, typer.Option("--out", "-o", help="Run folder; the same command continues what is in it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document as the last line of stdout.")]
Config = Annotated[Path | None, typer.Argument(help="A TOML config.", show_default=False)]
Preset = Annotated[str | None, typer.Option(help="Start from a preset: demo, full, paper, tiny.")]
TeacherFile = Annotated[
    Path | None, typer.Option("--teacher", help="A NAFNet checkpoint; by default the embedded one.")
]
MaxLoss = Annotated[
    float | None,
    typer.Option("--max-loss-db", help="The student is the fastest one that loses at most this before fine-tuning."),
]


def main() -> None:
    """Entry point of the ``netgraft`` command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except NetgraftError as error:
        sys.stderr.write(f"netgraft: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("netgraft: stopped; the same command continues\n")
        sys.exit(130)


@app.command()
def run(
    out: Out,
    config: Config = None,
    preset: Preset = None,
    teacher: TeacherFile = None,
    max_loss_db: MaxLoss = None,
    as_json: Json = False,
) -> None:
    """Refit a network: every stage, from the checkpoint to the exported student and its report."""
    from netgraft.pipeline import refit
    from netgraft.tables import result_table

    chosen = _config(out, config, preset, teacher, max_loss_db)
    with _bars() as progress:
        figures = refit(chosen, out, progress)
    out_console.print(result_table(figures))
    out_console.print(f"report: {out / 'report.html'}")
    _finish(figures, as_json)


def _stage_command(name: str, help_text: str) -> None:
    """Add the command that runs one stage, and what it needs, in a run folder."""

    def command(
        out: Out,
        config: Config = None,
        preset: Preset = None,
        teacher: TeacherFile = None,
        max_loss_db: MaxLoss = None,
        as_json: Json = False,
    ) -> None:
        from netgraft.pipeline import STAGES
        from netgraft.stages import Run
        from netgraft.store import RunStore

        chosen = _config(out, config, preset, teacher, max_loss_db)
        store = RunStore(out)
        with _bars() as progress, store.lock():
            this = Run(chosen, store, progress)
            STAGES[name](this)
            from netgraft.tables import stage_table

            table, document = stage_table(name, this)
        out_console.print(table)
        out_console.print(f"artifacts: {out}")
        _finish(document, as_json)

    command.__doc__ = help_text
    app.command(name)(command)


_stage_command("saliency", "How much each site is expected to matter, by up to six metrics.")
_stage_command("distill", "Train a replacement for every operator at every site.")
_stage_command("profile", "Measure every replacement on the device, and whether latencies add up.")
_stage_command("search", "Find the front of quality against latency; no network is trained.")
_stage_command("finetune", "Fine-tune the chosen student from end to end.")
_stage_command("export", "Write teacher and student as ONNX, with parity to PyTorch.")
_stage_command("report", "Write result.json and report.html.")


@app.command()
def restore(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Photographs, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A file for one photograph, otherwise a folder.")],
    model: Annotated[
        Path | None, typer.Option(help="An .onnx, .pth or .safetensors file; by default the embedded network.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Restore photographs with the embedded network or one of your own."""
    from netgraft.files import make_folder
    from netgraft.imaging import read_image, write_image
    from netgraft.restore import open_restorer

    jobs = _restore_jobs(inputs, out)
    for folder in {target.parent for _, target in jobs}:
        make_folder(folder)
    restorer = open_restorer(model)
    done, failures = [], []
    with _bars() as progress:
        for number, (source, target) in enumerate(jobs):
            progress("restore", number, len(jobs))
            try:
                write_image(target, restorer(read_image(source)))
            except ImageError as error:
                # One bad photograph must not cost the others of a folder.
                failures.append(str(error))
                continue
            done.append(str(target))
    for written in done:
        out_console.print(written, soft_wrap=True)
    if failures:
        more = f" (and {len(failures) - 1} more of {len(jobs)} failed)" if len(failures) > 1 else ""
        raise ImageError(failures[0] + more)
    _finish({"restored": done}, as_json)


def _restore_jobs(inputs: list[Path], out: Path) -> list[tuple[Path, Path]]:
    """Every photograph with the file that its restored version goes to."""
    from netgraft.imaging import image_paths

    sources: list[tuple[Path, Path]] = []
    for given in inputs:
        if given.is_dir():
            found = image_paths(given)
            if not found:
                raise ImageError(f"{given}: no images in this folder; name one with photographs in it")
            sources += [(path, out / path.name) for path in found]
        else:
            sources.append((given, out / given.name))
    if len(inputs) == 1 and not inputs[0].is_dir() and out.suffix and not out.is_dir():
        sources = [(inputs[0], out)]
    targets: dict[Path, Path] = {}
    for source, target in sources:
        if source.resolve() == target.resolve():
            raise ImageError(f"{source}: would be overwritten; choose another --out")
        if target in targets:
            raise ImageError(f"{source} and {targets[target]} would both become {target}; restore them apart")
        targets[target] = source
    return sources


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="An .onnx, .pth or .safetensors file, or 'embedded'.")],
    dataset: Annotated[str, typer.Option(help="embedded, sharp, folder, gopro, hide, ...")] = "embedded",
    root: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    degradation: Annotated[str, typer.Option(help="shake or defocus, for sharp photographs.")] = "shake",
    tlc: Annotated[int | None, typer.Option(help="Training crop, for local statistics.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="Write the scores of every image here.")] = None,
    as_json: Json = False,
) -> None:
    """Score a network on images whose clean version is known: PSNR and both SSIMs, whole images."""
    from netgraft.config import parse_config
    from netgraft.data.images import whole_images
    from netgraft.evaluate import PROTOCOL
    from netgraft.evaluate import evaluate as judge
    from netgraft.files import write_atomically
    from netgraft.nets.load import load_teacher
    from netgraft.restore import open_restorer

    data = parse_config(
        {"data": {"source": dataset, "root": root, "degradation": degradation}}, "netgraft evaluate"
    ).data
    path = None if model == "embedded" else Path(model)
    if tlc is None:
        restorer = open_restorer(path)
    else:
        if path is not None and path.suffix == ".onnx":
            raise ConfigError("--tlc needs a checkpoint: local statistics are built in before export")
        restorer = open_restorer(load_teacher(path, tlc=(tlc, tlc)))
    images = whole_images(data, "test")[:limit]
    restored, degraded = judge(restorer, images), judge(lambda image: image, images)
    if table is not None:
        rows = restored.as_rows()
        lines = [list(rows[0]), *([*row.values()] for row in rows)]
        write_atomically(table, _csv(lines).encode())
    figures = ("psnr_db", "ssim", "ssim_matlab")
    document = {
        "model": model,
        "dataset": data.model_dump(mode="json"),
        "images": len(images),
        "protocol": PROTOCOL,
        "degraded": {figure: degraded.mean(figure) for figure in figures},
        "restored": {figure: restored.mean(figure) for figure in figures},
    }
    view = Table(title=f"{len(images)} images, {dataset}")
    for column in ("", *figures):
        view.add_column(column, justify="right" if column else "left")
    for name, scored in (("degraded", degraded), ("restored", restored)):
        view.add_row(name, *(f"{scored.mean(figure):.4f}" for figure in figures))
    out_console.print(view)
    _finish(document, as_json)


def _csv(lines: list[list[Any]]) -> str:
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


@app.command()
def train(
    out: Out,
    data: Annotated[str, typer.Option(help="Source of the images: embedded, sharp, folder, gopro, ...")] = "embedded",
    root: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    degradation: Annotated[str, typer.Option(help="shake or defocus, for sharp photographs.")] = "shake",
    strength_px: Annotated[tuple[float, float], typer.Option(help="Least and most blur, in pixels.")] = (2.0, 20.0),
    width: Annotated[int, typer.Option(min=1)] = 16,
    encoder: Annotated[str, typer.Option(help="Blocks per encoder level.")] = "1,1,1,28",
    middle: Annotated[int, typer.Option(min=0)] = 1,
    decoder: Annotated[str, typer.Option(help="Blocks per decoder level.")] = "1,1,1,1",
    crops: Annotated[
        str, typer.Option(help="Stages as STEPS:SIZE:BATCH, separated by commas.")
    ] = "11000:64:16,5500:96:8,1500:128:6",
    learning_rate: Annotated[float, typer.Option()] = 1.5e-3,
    start: Annotated[Path | None, typer.Option(help="Weights to begin with.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long; the same command continues.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Train a NAFNet from sharp or paired images; the same command continues."""
    from netgraft.config import parse_config
    from netgraft.data import CropStage
    from netgraft.nets.nafnet import NafNetShape
    from netgraft.pretrain import pretrain
    from netgraft.train import TrainConfig, Training

    images = parse_config(
        {"data": {"source": data, "root": root, "degradation": degradation, "strength_px": strength_px}},
        "netgraft train",
    ).data
    stages = [_whole_numbers("--crops", stage, ":", 3) for stage in crops.split(",")]
    recipe = TrainConfig(
        crops=tuple(CropStage(steps=a, size=b, batch=c) for a, b, c in stages),
        learning_rate=learning_rate,
        seed=seed,
    )
    shape = NafNetShape(
        width=width,
        encoder_blocks=tuple(_whole_numbers("--encoder", encoder)),
        middle_blocks=middle,
        decoder_blocks=tuple(_whole_numbers("--decoder", decoder)),
    )
    if len(shape.encoder_blocks) != len(shape.decoder_blocks):
        raise ConfigError("--encoder and --decoder must name as many levels as each other")
    with _bars() as progress:

        def on_step(now: Training) -> None:
            progress(f"train {now.gain_db:+.2f} dB", now.step, recipe.steps)

        done = pretrain(shape, recipe, images, out, start=start, minutes=minutes, on_step=on_step)
    out_console.print(f"{done.steps} steps: {done.degraded_db:.2f} -> {done.restored_db:.2f} dB on validation crops")
    out_console.print(f"weights: {done.weights}")
    _finish(dataclasses.asdict(done) | {"weights": str(done.weights)}, as_json)


def _whole_numbers(option: str, text: str, separator: str = ",", count: int | None = None) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(separator)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or (count is not None and len(numbers) != count):
        raise ConfigError(f"{option} {text!r}: write whole numbers separated by {separator!r}")
    return numbers


@app.command()
def devices(
    check: Annotated[bool, typer.Option("--check", help="Run a tiny network on each.")] = False,
    as_json: Json = False,
) -> None:
    """List the devices that this machine can measure on, and what is missing."""
    from netgraft.devices import check_device, describe_devices

    rows = [dataclasses.asdict(row) for row in describe_devices()]
    table = Table()
    for column in ("device", "here", "version", "note", *(["check"] if check else [])):
        table.add_column(column)
    for row in rows:
        cells = [row["name"], "yes" if row["available"] else row["install"], row["version"], row["note"]]
        if check:
            tried = check_device(row["name"])
            row["check"] = dataclasses.asdict(tried)
            cells.append(tried.reason or f"ok, {tried.latency_ms:.3f} ms, error {tried.max_abs_error:.1e}")
        table.add_row(*cells)
    out_console.print(table)
    _finish({"devices": rows}, as_json)


def _config(out: Path, path: Path | None, preset: str | None, teacher: Path | None, max_loss_db: float | None) -> Any:
    """The config of a run folder: from the arguments, or the one that the folder was begun with."""
    from netgraft.config import PRESETS, load_config, parse_config
    from netgraft.files import write_atomically
    from netgraft.names import lookup
    from netgraft.store import RunStore

    stored = out / "config.json"
    if path is not None and preset is not None:
        raise ConfigError('name a config or a --preset, not both; a config can begin with preset = "NAME"')
    if path is not None:
        config = load_config(path)
    elif preset is not None:
        config = lookup("preset", preset, PRESETS)()
    elif stored.is_file():
        try:
            config = parse_config(json.loads(stored.read_text()), str(stored))
        except ValueError:
            raise ConfigError(f"{stored}: damaged; name the config or the --preset again") from None
    else:
        raise ConfigError(f"{out} holds no run yet: name a config, or --preset demo")
    values = config.model_dump(mode="json")
    if teacher is not None:
        values["teacher"]["path"] = str(teacher)
    if max_loss_db is not None:
        values["search"]["max_loss_db"] = max_loss_db
    config = parse_config(values, "netgraft")
    RunStore(out)
    write_atomically(stored, json.dumps(config.model_dump(mode="json"), indent=1).encode())
    return config


@contextmanager
def _bars() -> Iterator[Any]:
    """Progress bars on stderr, one a stage; nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=err_console, disable=not err_console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            name = stage.split(maxsplit=1)[0]
            if name not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=bars.tasks[task].total)
                tasks[name] = bars.add_task(stage, total=total)
            bars.update(tasks[name], description=stage, completed=done, total=total)

        yield progress
        for task in tasks.values():
            bars.update(task, completed=bars.tasks[task].total)


def _finish(document: Any, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(document, default=str) + "\n")


if __name__ == "__main__":
    main()
