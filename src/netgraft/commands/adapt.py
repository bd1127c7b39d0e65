"""A finished run's student for other images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netgraft.commands.console import DataRoot, Degradation, Json, Strength, data_of, finish, out_console, progress_bars


def adapt(
    student: Annotated[Path, typer.Argument(help="A finished run's folder, or its export/student.safetensors.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what it makes; the same command continues.")],
    data: Annotated[str, typer.Option(help="Source of the images: embedded, sharp, folder, gopro, ...")] = "embedded",
    root: DataRoot = None,
    degradation: Degradation = None,
    strength: Strength = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Training images that are used; by default all.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps at most.")] = 400,
    batch: Annotated[int, typer.Option(min=1, help="Crops a step.")] = 8,
    crop: Annotated[int, typer.Option(min=16, help="Their side, in pixels.")] = 96,
    learning_rate: Annotated[float, typer.Option(help="Its peak.")] = 5e-4,
    validation_crops: Annotated[int, typer.Option(min=1, help="Crops that choose the weights.")] = 24,
    validation_crop: Annotated[int, typer.Option(min=16, help="Their side, in pixels.")] = 256,
    check_every: Annotated[int, typer.Option(min=1, help="Steps from one look at these to the next.")] = 25,
    patience: Annotated[int, typer.Option(min=1, help="Stop after so many steps without a better look.")] = 150,
    samples: Annotated[int, typer.Option(min=1, help="Timing samples of each network.")] = 24,
    teacher: Annotated[
        Path | None, typer.Option(help="A NAFNet to adapt beside it, in place of its own teacher.")
    ] = None,
    alone: Annotated[bool, typer.Option("--no-teacher", help="Leave the teacher out.")] = False,
    device: Annotated[
        str | None,
        typer.Option(help="What latency is measured on; by default the student's own device.", show_default=False),
    ] = None,
    compute: Annotated[str, typer.Option(help="Where PyTorch trains: cpu, or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Fine-tune a refitted network, and its teacher beside it, to another degradation or data set from few images.

    The architecture stays, and with it the latency.
    """
    from netgraft.adapt import parse_adapt_config
    from netgraft.pipeline import adapt as adapt_network
    from netgraft.stages import start_from
    from netgraft.tables import adapted_table

    chosen = data_of("netgraft adapt", data, root, degradation, strength)
    config = parse_adapt_config(
        {
            "data": chosen,
            "images": images,
            "steps": steps,
            "batch": batch,
            "crop": crop,
            "learning_rate": learning_rate,
            "validation_crops": validation_crops,
            "validation_crop": validation_crop,
            "check_every": check_every,
            "patience": patience,
            "samples": samples,
            "compute": compute,
            "seed": seed,
        }
    )
    with progress_bars() as progress:
        start = start_from(student, teacher, alone=alone, device=device, progress=progress)
        figures = adapt_network(start, config, out, progress)
    out_console.print(adapted_table(figures))
    out_console.print(f"networks: {out / 'export'}", soft_wrap=True)
    out_console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    finish(figures, as_json)
