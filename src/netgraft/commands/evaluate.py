"""A network judged on images whose clean version is known."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from netgraft.commands.console import DataRoot, Degradation, Json, finish, out_console
from netgraft.config import parse_config
from netgraft.errors import ConfigError


def evaluate(
    model: Annotated[str, typer.Argument(help="An .onnx, .pth or .safetensors file, or 'embedded'.")],
    dataset: Annotated[str, typer.Option(help="embedded, sharp, folder, gopro, hide, ...")] = "embedded",
    root: DataRoot = None,
    degradation: Degradation = "shake",
    tlc: Annotated[int | None, typer.Option(help="Training crop, for local statistics.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="Write the scores of every image here.")] = None,
    as_json: Json = False,
) -> None:
    """Score a network on images whose clean version is known: PSNR and both SSIMs, whole images."""
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
    finish(document, as_json)


def _csv(lines: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
