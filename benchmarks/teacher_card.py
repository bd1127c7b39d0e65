"""What every part of a teacher is worth: the PSNR lost when a site, or a whole stage, is taken out.

A teacher whose deep blocks can be removed for nothing flatters every method that removes them. This prints, for each
block and for each encoder and decoder stage, the drop in dB on crops of the validation images (blocks become the
identity), the scores on whole test images, and ends with one JSON line.

    python benchmarks/teacher_card.py [--weights FILE] [--root PHOTOS] [--crops 16]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from netgraft.data.images import DataConfig, crops_of, whole_images
from netgraft.evaluate import batch_psnr_db, evaluate
from netgraft.nets.load import load_teacher
from netgraft.restore import open_restorer
from netgraft.sites import find_sites


def without(module: nn.Module, path: str) -> nn.Module:
    """A copy in which the block or stage at ``path`` is the identity."""
    network = copy.deepcopy(module)
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent) if parent else network, name, nn.Sequential())
    return network


def drops(module: nn.Module, paths: list[str], degraded: Tensor, clean: Tensor) -> dict[str, float]:
    whole = batch_psnr_db(module, degraded, clean)
    return {path: whole - batch_psnr_db(without(module, path), degraded, clean) for path in paths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="checkpoint; by default the embedded network")
    parser.add_argument("--root", type=Path, help="folder with validation/ and test/ of sharp photographs")
    parser.add_argument("--crops", type=int, default=16)
    args = parser.parse_args()
    data = DataConfig(source="sharp", root=args.root) if args.root else DataConfig()
    teacher = load_teacher(args.weights)
    degraded, clean = crops_of(data, "validation", count=args.crops, size=(256, 256))
    sites = [site for site in find_sites(teacher.module) if site.kind == "block"]
    stages = list(dict.fromkeys(site.path.rpartition(".")[0] for site in sites))
    by_stage = drops(teacher.module, stages, degraded, clean)
    by_site = drops(teacher.module, [site.path for site in sites], degraded, clean)

    table = Table(title="PSNR lost when a part is taken out, dB")
    for column in ("part", "drop_db"):
        table.add_column(column)
    for path, drop in (by_stage | by_site).items():
        table.add_row(path, f"{drop:.3f}")
    console = Console()
    console.print(table)

    images = whole_images(data, "test")
    before, after = evaluate(lambda image: image, images), evaluate(open_restorer(teacher), images)
    record = {
        "steps": teacher.metadata.get("steps"),
        "validation": {
            "crops": args.crops,
            "degraded_db": batch_psnr_db(nn.Identity(), degraded, clean),
            "restored_db": batch_psnr_db(teacher.module, degraded, clean),
        },
        "test": {
            "images": len(images),
            "degraded": {figure: before.mean(figure) for figure in ("psnr_db", "ssim", "ssim_matlab")},
            "restored": {figure: after.mean(figure) for figure in ("psnr_db", "ssim", "ssim_matlab")},
        },
        "stage_drop_db": by_stage,
        "site_drop_db": by_site,
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    console.print_json(json.dumps(record)) if console.is_terminal else print(json.dumps(record))


if __name__ == "__main__":
    main()
