"""What the parts of a MAXIM are worth, before anything is refitted: quality, time and saliency of every site.

    python benchmarks/maxim_facts.py maxim.safetensors --root PHOTOS --degradation noise --strength 5,30 --out F.json

Quality: PSNR of test crops as they are, after each stage (by its supervised output) and restored. Each block in turn
is removed: a fitted scale and offset per channel, or the fitted sum of its inputs, take its place, and the PSNR that
this loses on validation crops is the truth that the six saliency metrics are ranked against. Times: of one block of
every construction, by ONNX Runtime on one thread, all in turns. What is done stands in F.json, and the same command
goes on from there. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from scipy.stats import spearmanr
from torch import Tensor, nn

from netgraft.data.images import DataConfig, crops_of
from netgraft.devices import MeasureProtocol, OnnxParts, OnnxRuntimeDevice, measure_modules
from netgraft.devices.measure import Latency
from netgraft.distill import fit_surrogates
from netgraft.evaluate import crop_psnrs_db
from netgraft.features import site_features
from netgraft.files import write_atomically
from netgraft.nets.load import load_teacher
from netgraft.nets.maxim import Maxim, first_stages
from netgraft.operators import OPERATORS
from netgraft.prefix import PrefixScores
from netgraft.saliency import METRICS, saliency
from netgraft.sites import Site, find_sites

FITTING_CROPS = 4
"""Training crops that what takes a block's place is fitted on."""
SALIENCY_CROPS, SALIENCY_SIDE = 4, 64


class Facts:
    """Figures by name, each computed once and kept in a file."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.values: dict[str, Any] = {"about": about}
        if path.exists():
            known = json.loads(path.read_text())
            if known["about"] != about:
                raise SystemExit(f"{path}: holds facts of {known['about']}; name another --out")
            self.values = known

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.values:
            print(name, flush=True)
            self.values[name] = make()
            write_atomically(self.path, json.dumps(self.values, indent=1).encode())
        return self.values[name]


def removed(site: Site) -> str:
    """The operator that stands for nothing at a site."""
    return "add" if site.more_channels else "drop"


def mean_psnr_db(network: nn.Module, degraded: Tensor, clean: Tensor) -> list[float] | None:
    with torch.inference_mode():
        return crop_psnrs_db((network(x) for x in torch.split(degraded, 1)), torch.split(clean, 1))


def stage_quality(net: Maxim, degraded: Tensor, clean: Tensor) -> dict[str, list[float] | None]:
    """PSNR of each crop, by what restored it."""
    found = {"degraded": mean_psnr_db(nn.Identity(), degraded, clean)}
    for count in range(1, net.shape.stages + 1):
        found[f"first {count} of {net.shape.stages} stages"] = mean_psnr_db(first_stages(net, count), degraded, clean)
    return found


def times_ms(net: nn.Module, sites: tuple[Site, ...], size: tuple[int, int], samples: int) -> dict[str, list[float]]:
    """Median and quartiles of one block of every construction."""
    parts, device = OnnxParts(sites, torch.zeros(1, 3, *size)), OnnxRuntimeDevice(threads=1)
    shapes = {site.shape_key: site for site in reversed(sites)}
    modules = {key: (site.alone(net.get_submodule(site.path)), site.example(size)) for key, site in shapes.items()}

    def compiled(key: str, module: nn.Module, example: Tensor) -> Any:
        block = net.get_submodule(shapes[key].path)
        return device.compile_graph(parts.block(shapes[key], "keep", block), module, example)

    timed = measure_modules(device, modules, MeasureProtocol(samples=samples), compile_one=compiled)
    assert all(isinstance(entry, Latency) for entry in timed.values()), timed
    return {key: [entry.median_ms, entry.q25_ms, entry.q75_ms] for key, entry in timed.items()}  # type: ignore[union-attr]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="sharp photographs: train/, validation/, test/")
    parser.add_argument("--degradation", choices=("noise", "shake"), required=True)
    parser.add_argument("--strength", required=True, help="least and most, e.g. 5,30")
    parser.add_argument("--crops", type=int, default=6)
    parser.add_argument("--side", type=int, default=128, help="of the crops that quality is judged on, in pixels")
    parser.add_argument("--size", type=int, default=256, help="that the times are of, in pixels")
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    low, high = map(float, args.strength.split(","))
    data = DataConfig(source="sharp", root=args.root, degradation=args.degradation, strength_px=(low, high))
    teacher = load_teacher(args.checkpoint)
    net = teacher.module
    assert isinstance(net, Maxim), teacher.description
    sites = find_sites(net, (args.size, args.size))
    blocks = [site for site in sites if site.kind == "block"]
    about = {"network": teacher.description, "degradation": data.degradation_in_words, "crops": args.crops}
    facts = Facts(args.out, about | {"side": args.side, "size": args.size})
    side = (args.side, args.side)

    quality = facts.once("quality", lambda: stage_quality(net, *crops_of(data, "test", count=args.crops, size=side)))
    degraded, clean = crops_of(data, "train", count=SALIENCY_CROPS, size=(SALIENCY_SIDE, SALIENCY_SIDE))
    for metric in METRICS:
        facts.once(metric, lambda metric=metric: saliency(net, degraded, clean, blocks, metric=metric).tolist())
    times = facts.once("times_ms", lambda: times_ms(net, sites, (args.size, args.size), args.samples))

    fitting, _ = crops_of(data, "train", count=FITTING_CROPS, size=side, seed=1)
    keys = [(site.path, removed(site)) for site in blocks]
    surrogates = {
        (site.path, removed(site)): OPERATORS[removed(site)].module_at(site, net.get_submodule(site.path)).eval()
        for site in blocks
    }
    fit_surrogates(surrogates, site_features(net, fitting, blocks))
    degraded, clean = crops_of(data, "validation", count=args.crops, size=side)
    paths = [site.path for site in sites]
    scores = PrefixScores(net, paths, surrogates, degraded=degraded, clean=clean, calibration=fitting[:1])
    whole_db = facts.once("whole_db", lambda: scores.psnr_db({}))
    for path, operator in keys:
        facts.once(f"without {path}", lambda key=(path, operator): scores.psnr_db({key[0]: key[1]}))

    drops = [whole_db - facts.values[f"without {site.path}"] for site in blocks]
    for site, drop in sorted(zip(blocks, drops, strict=True), key=lambda row: -row[1]):
        print(f"{site.path:36} {site.block:22} {drop:7.3f} dB {times[site.shape_key][0]:8.1f} ms")
    rank = {metric: float(spearmanr(facts.values[metric], drops).statistic) for metric in METRICS}
    rank["macs"] = float(spearmanr([site.macs for site in blocks], drops).statistic)
    print({name: float(np.mean(values)) for name, values in quality.items() if values})
    print(rank)
    print(json.dumps(facts.values | {"rank_correlation": rank, "machine": machine("onnxruntime")}))


if __name__ == "__main__":
    main()
