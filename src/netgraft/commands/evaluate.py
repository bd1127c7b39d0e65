"""Networks judged on images whose clean version is known."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from netgraft.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from netgraft.judgement import Judgement

Models = Annotated[
    list[str],
    typer.Argument(help="An .onnx, .pth or .safetensors file, a run's folder, or 'embedded'.", show_default=False),
]
LOWER_IS_BETTER = ("mae", "lpips")


def evaluate(
    models: Models,
    dataset: Annotated[
        str,
        typer.Option(
            help="embedded, sharp, folder, gopro, gopro-gamma, hide, realblur-j, realblur-r, dpdd, dpdd-dual, rsblur, "
            "reds or reds-jpeg."
        ),
    ] = "embedded",
    root: DataRoot = None,
    split: Annotated[str, typer.Option(help="Split; by default the one that figures are published for.")] = "",
    degradation: Degradation = None,
    strength: Strength = None,
    inference: Annotated[
        Literal["whole", "tiles", "crop"], typer.Option(help="Whole images, tiles, or the central crop of each.")
    ] = "tiles",
    size: Annotated[int | None, typer.Option(min=16, help="Side of tiles or of the crop, in pixels.")] = None,
    tlc: Annotated[int | None, typer.Option(min=16, help="Training crop, for local statistics.")] = None,
    bits: Annotated[int | None, typer.Option(help="8 or 16 bits a channel; by default the data set's.")] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="Align restored images first, as RealBlur is.")] = False,
    lpips: Annotated[
        bool | None, typer.Option("--lpips/--no-lpips", help="LPIPS; by default where its weights are at hand.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Accept an incomplete data set.")] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Look at all pairs before any is used.")] = True,
    bins: Annotated[int, typer.Option(min=0, help="Also by difficulty, in so many bins.")] = 0,
    table: Annotated[Path | None, typer.Option("--csv", help="Write the scores of every image here.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write everything here, as JSON.")] = None,
    earlier: Annotated[
        Path | None, typer.Option("--against", help="Compare with what --out wrote earlier; the same protocol alone.")
    ] = None,
    attacked: Annotated[
        bool, typer.Option("--robustness", help="Also attack each network's input (PGD, 1/255 to 4/255).")
    ] = False,
    compute: Annotated[str, typer.Option(help="Where checkpoints compute: cpu, or cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Score networks on images whose clean version is known, side by side: PSNR, both SSIMs, MAE, LPIPS, intervals."""
    from netgraft.data.testset import open_test_set
    from netgraft.entrants import open_entrants
    from netgraft.files import write_atomically
    from netgraft.judgement import against, as_csv, document, judge, read_earlier, rows
    from netgraft.robustness import robustness

    data = data_of("netgraft evaluate", dataset, root, degradation, strength)
    # All that can be known beforehand to fail does so before anything takes its time.
    check_outputs(table, out)
    before = None if earlier is None else read_earlier(earlier)
    entrants = open_entrants(models, tlc=tlc, compute=compute)
    modules = {name: entrant.module for name, entrant in entrants.items()} if attacked else {}
    distance = _lpips(lpips)
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
        if bins > len(tests.images):
            raise ConfigError(f"--bins {bins}: there are {len(tests.images)} images, ask for no more bins")
        judgement = judge(
            entrants,
            tests,
            inference=inference,
            side=size,
            bits=bits_of(bits, tests.bits, aligned=aligned),
            aligned=aligned,
            lpips=distance,
            earlier=before,
            progress=lambda done, total: progress("evaluate", done, total),
        )
        if table is not None:
            write_atomically(table, as_csv(judgement).encode())
        told = {"models": models} | document(judgement, bins)
        if before is not None:
            told["against"] = against(judgement, before)
        if modules:
            attacks = robustness(
                modules, tests.images, compute=compute, progress=lambda done, total: progress("attack", done, total)
            )
            told["robustness"] = attacks.as_dict()
    if out is not None:
        content = json.dumps(told | {"scores": rows(judgement)}, indent=1, allow_nan=False)
        write_atomically(out, content.encode())
    show(judgement, told)
    finish(told, as_json)


def bits_of(asked: int | None, published: int, *, aligned: bool) -> Literal[8, 16]:
    """Bits that images are compared in: as asked, else the data set's; aligned ones in 8."""
    bits = asked or (8 if aligned else published)
    if bits not in (8, 16):
        raise ConfigError(f"--bits {bits}: images have 8 or 16 bits a channel")
    return 16 if bits == 16 else 8


def _lpips(asked: bool | None) -> Callable[[Any, Any], float] | str:
    """The distance, or the reason for which it is left out."""
    from netgraft.imaging.lpips import open_lpips

    if asked is False:
        return "not asked for"
    try:
        return open_lpips()
    except CheckpointError as error:
        if asked:
            raise
        return str(error)


def show(judgement: Judgement, told: dict[str, Any]) -> None:
    """The tables of a judgement on the terminal."""
    from netgraft.scores import FIGURES

    protocol = judgement.protocol
    figures = [f for f in FIGURES if all(f in e.figures for e in judgement.evaluations.values())]
    view = Table(title=f"{protocol.images} images, {protocol.dataset} {protocol.split}".rstrip())
    view.add_column("")
    for figure in figures:
        arrow = "↓" if figure in LOWER_IS_BETTER else "↑"
        view.add_column(f"{figure} {arrow}", justify="right", no_wrap=True)
    for name, evaluation in judgement.evaluations.items():
        cells = [f"{evaluation.mean(figure):.4f}" for figure in figures[1:]]
        view.add_row(name, evaluation.estimate().text(), *cells)
    out_console.print(view)
    for row in [*told["differences"], *told.get("against", [])]:
        out_console.print(
            f"{row['of']} less {row['less']}: {_number(row['mean'])} dB "
            f"[{_number(row['low'])}, {_number(row['high'])}], in pairs"
        )
    if told["groups"]:
        out_console.print(_psnr_table("by group", [row["group"] for row in told["groups"]], told["groups"]))
    if told["bins"]:
        labels = ["{:.1f} to {:.1f} dB".format(*row["degraded_psnr_db"]) for row in told["bins"]]
        out_console.print(_psnr_table("by PSNR of the degraded image", labels, told["bins"]))
    if "robustness" in told:
        out_console.print(_attack_table(told["robustness"]["rows"]))
    of = "" if protocol.published is None else f" of {protocol.published} as published"
    out_console.print(
        f"Protocol: {protocol.images} images{of}, {protocol.degradation}; {protocol.inference}; {protocol.bits}-bit "
        f"RGB; alignment: {protocol.alignment}; views: {protocol.views}. LPIPS: {judgement.lpips}. "
        f"In brackets: {told['intervals_are']}.",
        style="dim",
    )


def _psnr_table(title: str, labels: list[str], parts: list[dict[str, Any]]) -> Table:
    """PSNR of every network in every part of the images."""
    view = Table(title=f"PSNR, dB, {title}")
    view.add_column("")
    view.add_column("images", justify="right")
    names = list(parts[0]["means"])
    for name in names:
        view.add_column(name, justify="right")
    for label, part in zip(labels, parts, strict=True):
        view.add_row(
            label, str(part["images"]), *(_number(part["means"][name]["psnr_db"], sign=False) for name in names)
        )
    return view


def _attack_table(attacks: list[dict[str, Any]]) -> Table:
    """What attacks within each bound leave of every network's quality."""
    view = Table(title="PSNR, dB, under attack (PGD on central crops of 128)")
    for column in ("", "bound", "as it is", "attacked", "loses", "less than the first"):
        view.add_column(column, justify="right" if column else "left")
    for row in attacks:
        less = row["first_drop_less_this_db"]
        view.add_row(
            row["network"],
            f"{row['bound_of_255']:g}/255",
            f"{row['unattacked_db']['mean']:.2f}",
            f"{row['attacked_db']['mean']:.2f}",
            f"{row['drop_db']['mean']:.2f}",
            "" if less is None else f"{less['mean']:+.2f} [{less['low']:+.2f}, {less['high']:+.2f}]",
        )
    return view


def _number(value: float | None, *, sign: bool = True) -> str:
    return "infinite" if value is None else f"{value:+.2f}" if sign else f"{value:.2f}"
