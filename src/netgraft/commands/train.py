"""Training a network: a new NAFNet, or a pretrained one of any kind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from netgraft.commands.console import (
    DataRoot,
    Degradation,
    Json,
    Out,
    Strength,
    data_of,
    finish,
    out_console,
    progress_bars,
)
from netgraft.errors import ConfigError
from netgraft.names import lookup


def train(
    out: Out,
    data: Annotated[str, typer.Option(help="Source of the images: embedded, sharp, folder, gopro, ...")] = "embedded",
    root: DataRoot = None,
    degradation: Degradation = None,
    strength: Strength = None,
    width: Annotated[
        int | None, typer.Option(min=1, help="Of a new NAFNet, like the next three.", show_default="16")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Blocks per encoder level.", show_default="1,1,1,28")] = None,
    middle: Annotated[int | None, typer.Option(min=0, show_default="1")] = None,
    decoder: Annotated[str | None, typer.Option(help="Blocks per decoder level.", show_default="1,1,1,1")] = None,
    start: Annotated[
        Path | None, typer.Option(help="A pretrained network that learns on, in place of a new NAFNet.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="package.module:factory that makes it; --start then holds its weights.")
    ] = None,
    crops: Annotated[
        str, typer.Option(help="Stages as STEPS:SIZE:BATCH, separated by commas.")
    ] = "11000:64:16,5500:96:8,1500:128:6",
    optimizer: Annotated[str, typer.Option(help="adamw, as published, or muon.")] = "adamw",
    learning_rate: Annotated[float, typer.Option(help="Its peak.")] = 1.5e-3,
    warmup: Annotated[int, typer.Option(min=0, help="Steps until it is reached.")] = 300,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long; the same command continues.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Train a network from sharp or paired images, a new NAFNet or a pretrained one; the same command continues."""
    from netgraft.data import CropStage
    from netgraft.nets.load import load_teacher
    from netgraft.nets.nafnet import NafNetShape
    from netgraft.pretrain import pretrain
    from netgraft.train import TrainConfig, Training

    images = data_of("netgraft train", data, root, degradation, strength)
    stages = [_whole_numbers("--crops", stage, ":", 3) for stage in crops.split(",")]
    recipe = TrainConfig(
        crops=tuple(CropStage(steps=a, size=b, batch=c) for a, b, c in stages),
        optimizer=lookup("optimizer", optimizer, {"adamw": "adamw", "muon": "muon"}),
        learning_rate=learning_rate,
        warmup=warmup,
        seed=seed,
    )
    new = {"--width": width, "--encoder": encoder, "--middle": middle, "--decoder": decoder}
    asked = [option for option, value in new.items() if value is not None]
    pretrained = start is not None or model is not None
    if pretrained and asked:
        raise ConfigError(
            f"{asked[0]} is for a new NAFNet, but --start or --model names a network: leave one of them out"
        )
    shape = NafNetShape(
        width=16 if width is None else width,
        encoder_blocks=tuple(_whole_numbers("--encoder", "1,1,1,28" if encoder is None else encoder)),
        middle_blocks=1 if middle is None else middle,
        decoder_blocks=tuple(_whole_numbers("--decoder", "1,1,1,1" if decoder is None else decoder)),
    )
    if len(shape.encoder_blocks) != len(shape.decoder_blocks):
        raise ConfigError("--encoder and --decoder must name as many levels as each other")
    network = load_teacher(start, factory=model) if pretrained else shape
    with progress_bars() as progress:

        def on_step(now: Training) -> None:
            progress(f"train {now.gain_db:+.2f} dB", now.step, recipe.steps)

        done = pretrain(network, recipe, images, out, minutes=minutes, on_step=on_step)
    out_console.print(f"{done.steps} steps: {done.degraded_db:.2f} -> {done.restored_db:.2f} dB on validation crops")
    out_console.print(f"weights: {done.weights}")
    finish(dataclasses.asdict(done) | {"weights": str(done.weights)}, as_json)


def _whole_numbers(option: str, text: str, separator: str = ",", count: int | None = None) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(separator)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or (count is not None and len(numbers) != count):
        raise ConfigError(f"{option} {text!r}: write whole numbers separated by {separator!r}")
    return numbers
