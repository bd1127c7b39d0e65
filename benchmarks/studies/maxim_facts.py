"""What the parts of a MAXIM are worth, before anything is refitted: quality, time and saliency of every site.

    python -m benchmarks.studies.maxim_facts maxim.safetensors --root PHOTOS --degradation noise --strength 5,30 \
        --label denoising --out FOLDER [--publish]

Quality: PSNR of a crop of every test photograph as it is, restored, and restored by some of the stages; after alignment
where the photographs are shaken. The first stages give the image of their supervised output; a later stage, without
those before it, is handed what they hand on average, per channel. Each block in turn is removed: a fitted scale and
offset per channel, or the fitted sum of its inputs, take its place, and the PSNR that this loses on validation crops is
the truth that the six saliency metrics are ranked against. Times: of one block of every construction, by ONNX Runtime
on one thread, all in turns. What is done stands in FOLDER, and the same command goes on from there. Prints its tables
and one JSON line.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.studies.judging import Floats, interval, rank_agreement
from benchmarks.studies.study import CYCLE, GRAY, TableOf, figure, hand_out, rank_bars, spread
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from netgraft.config import RunConfig, TeacherConfig
from netgraft.data.images import DataConfig, crops_of
from netgraft.devices import MeasureProtocol, OnnxParts, OnnxRuntimeDevice, measure_modules
from netgraft.devices.measure import Latency
from netgraft.distill import fit_surrogates
from netgraft.errors import ImageError
from netgraft.evaluate import crop_psnrs_db
from netgraft.features import site_features
from netgraft.imaging.align import align
from netgraft.nets.maxim import Carried, Maxim, first_stages
from netgraft.operators import OPERATORS
from netgraft.prefix import PrefixScores
from netgraft.saliency import METRICS, saliency
from netgraft.sites import Site, find_sites
from netgraft.stages import Run
from netgraft.store import RunStore

TEST_CROPS = 15
"""Crops that the stages are judged on, each of a photograph of its own while there are so many."""
FITTING_CROPS = 4
"""Training crops that what takes a block's place is fitted on."""
SALIENCY_CROPS, SALIENCY_SIDE = 4, 64


def removed(site: Site) -> str:
    """The operator that stands for nothing at a site."""
    return "add" if site.more_channels else "drop"


def some_stages(net: Maxim, kept: Sequence[int], handed: Sequence[Carried]) -> Maxim:
    """The network of these stages, in their order. handed: what each of all stages hands on, (1, c, 1, 1) a level."""
    shorter = first_stages(net, kept[-1] + 1)
    shorter.stages = nn.ModuleList(shorter.stages[number] for number in kept)
    if kept[0]:

        def given(_: nn.Module, inputs: tuple[list[Tensor], None]) -> tuple[list[Tensor], Carried]:
            images = inputs[0]
            levels = {
                name: [x.expand(-1, -1, *image.shape[-2:]) for x, image in zip(values, images, strict=True)]
                for name, values in levels_of(handed[kept[0] - 1]).items()
            }
            return images, Carried(**levels)

        shorter.stages[0].register_forward_pre_hook(given)
    return shorter


def levels_of(carried: Carried) -> dict[str, Sequence[Tensor]]:
    """Its fields by their names."""
    return {"encoded": carried.encoded, "decoded": carried.decoded, "attended": carried.attended}


@torch.inference_mode()
def handed_on_average(net: Maxim, degraded: Tensor) -> list[Carried]:
    """What each stage hands to the next, averaged over crops and pixels."""
    handed: list[Carried] = []

    def averaged(_: nn.Module, inputs: object, carried: Carried) -> None:
        means = {name: [x.mean((0, 2, 3), keepdim=True) for x in xs] for name, xs in levels_of(carried).items()}
        handed.append(Carried(**means))

    hooks = [stage.register_forward_hook(averaged) for stage in net.stages]
    net(degraded)
    for hook in hooks:
        hook.remove()
    return handed


def stage_quality(
    net: Maxim, degraded: Tensor, clean: Tensor, fitting: Tensor, *, aligned: bool
) -> dict[str, list[float] | None]:
    """PSNR of each crop, by what restored it."""
    count = net.shape.stages
    choices = [tuple(range(first)) for first in range(count, 0, -1)]
    choices += [tuple(n for n in range(count) if n != without) for without in range(count - 1)]
    choices += [(count - 1,)]
    handed = handed_on_average(net, fitting)
    found = {"as they are": psnrs_db(nn.Identity(), degraded, clean, aligned=aligned)}
    for kept in dict.fromkeys(choices):
        name = f"stage{'s' * (len(kept) > 1)} {', '.join(str(number + 1) for number in kept)}"
        found[name] = psnrs_db(some_stages(net, kept, handed), degraded, clean, aligned=aligned)
    return found


@torch.inference_mode()
def psnrs_db(network: nn.Module, degraded: Tensor, clean: Tensor, *, aligned: bool) -> list[float] | None:
    """PSNR of each crop, aligned or not; None where one is not finite, or shows too little of the scene."""
    outputs = [network(x) for x in torch.split(degraded, 1)]
    plain = crop_psnrs_db(outputs, torch.split(clean, 1))
    if plain is None or not aligned:
        return plain
    try:
        return [align(_bytes(y), _bytes(target[None])).psnr_db for y, target in zip(outputs, clean, strict=True)]
    except ImageError:
        return None


def _bytes(image: Tensor) -> NDArray[np.uint8]:
    """(1, 3, h, w) in [0, 1] -> (h, w, 3)."""
    return image[0].permute(1, 2, 0).clamp(0, 1).mul(255).round().byte().numpy()


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


def removals_db(
    net: nn.Module, sites: Sequence[Site], fitting: Tensor, degraded: Tensor, clean: Tensor
) -> dict[str, float]:
    """The PSNR of the network, as ``whole``, and of it without each of its blocks, by their paths."""
    blocks = [site for site in sites if site.kind == "block"]
    surrogates = {
        (site.path, removed(site)): OPERATORS[removed(site)].module_at(site, net.get_submodule(site.path)).eval()
        for site in blocks
    }
    fit_surrogates(surrogates, site_features(net, fitting, blocks))
    paths = [site.path for site in sites]
    scores = PrefixScores(net, paths, surrogates, degraded=degraded, clean=clean, calibration=fitting[:1])
    return {"whole": scores.psnr_db({})} | {path: scores.psnr_db({path: name}) for path, name in surrogates}


def stages_table(quality: dict[str, list[float] | None]) -> TableOf:
    """Mean PSNR, and against the whole network in pairs."""
    whole = np.array(next(values for name, values in quality.items() if name.startswith("stage")))
    rows = []
    for name, values in quality.items():
        if values is None:
            rows.append([name, "not an image of it", ""])
            continue
        off = np.array(values) - whole
        low_high = interval(lambda rng, off=off: float(rng.choice(off, len(off)).mean()))
        rows.append([name, f"{np.mean(values):.2f}", spread(off.mean(), low_high) if off.any() else ""])
    return ["restored by", "PSNR, dB", "against all stages [95 %]"], rows


def kinds_table(blocks: Sequence[Site], drops: Floats, times: dict[str, list[float]]) -> TableOf:
    """What each kind of block takes, and what one of it is worth, stage by stage."""
    total_ms = sum(times[site.shape_key][0] for site in blocks)
    stages = sorted({stage_of(site) for site in blocks})
    rows = {}
    for kind in dict.fromkeys(site.block for site in blocks):
        of_kind = np.array([site.block == kind for site in blocks])
        kind_ms = sum(times[site.shape_key][0] for site in blocks if site.block == kind)
        row = [kind, str(of_kind.sum()), f"{kind_ms:.0f}", f"{100 * kind_ms / total_ms:.0f}"]
        for stage in stages:
            some = drops[of_kind & np.array([stage_of(site) == stage for site in blocks])]
            row.append(f"{np.median(some):.2f} ({some.max():.2f})" if len(some) else "")
        rows[kind] = (kind_ms, row)
    lost = [f"lost in stage {stage + 1}, dB" for stage in stages]
    ordered = [row for _, row in sorted(rows.values(), key=lambda entry: -entry[0])]
    return ["block", "sites", "ms", "% of all", *lost], ordered


def stage_of(site: Site) -> int:
    return int(site.path.split(".")[1])


def draw(blocks: Sequence[Site], drops: Floats, ranks: dict[str, list[float]], network: str) -> Figure:
    fig, (losses, bars) = figure(13, 5, 2, width_ratios=[1.8, 1])
    for color, kind in zip(CYCLE, dict.fromkeys(site.block for site in blocks), strict=False):
        places = [i for i, site in enumerate(blocks) if site.block == kind]
        losses.plot(places, drops[places], "o", ms=4.5, color=color, label=kind)
    stages = [stage_of(site) for site in blocks]
    for stage in sorted(set(stages))[1:]:
        losses.axvline(stages.index(stage) - 0.5, color=GRAY, lw=0.8)
    losses.axhline(0, color=GRAY, lw=0.8)
    losses.set_yscale("symlog", linthresh=0.1)
    losses.set_xlabel("site, in the order of the network; lines between stages")
    losses.set_ylabel("PSNR lost without it, dB")
    losses.yaxis.set_major_formatter("{x:g}")
    losses.margins(y=0.08)
    fig.legend(*losses.get_legend_handles_labels(), fontsize=8.5, ncols=6, loc="outside lower left")
    losses.set_title(f"What each site is worth: {network}", loc="left", fontsize=10.5)
    rank_bars(bars, ranks)
    bars.set_title("Does saliency predict it?", loc="left", fontsize=10.5)
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="sharp photographs: train/, validation/, test/")
    parser.add_argument("--degradation", choices=("noise", "shake"), required=True)
    parser.add_argument("--strength", required=True, help="least and most, e.g. 5,30")
    parser.add_argument("--crops", type=int, default=6, help="validation crops that removals are judged on")
    parser.add_argument("--side", type=int, default=128, help="of the crops that removals are judged on, in pixels")
    parser.add_argument(
        "--size", type=int, default=256, help="that the times and the stages' quality are of, in pixels"
    )
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--label", required=True, help="of the network and its task, e.g. denoising")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--publish", action="store_true", help="write the results into the repository")
    args = parser.parse_args()
    torch.set_num_threads(1)
    low, high = map(float, args.strength.split(","))
    data = DataConfig(source="sharp", root=args.root, degradation=args.degradation, strength_px=(low, high))
    run = Run(RunConfig(teacher=TeacherConfig(path=args.checkpoint), data=data), RunStore(args.out))
    teacher = run.teacher
    net = teacher.module
    assert isinstance(net, Maxim), teacher.description
    sites = find_sites(net, (args.size, args.size))
    blocks = [site for site in sites if site.kind == "block"]
    side, size = (args.side, args.side), (args.size, args.size)
    about = {"network": teacher.description, "degradation": data.degradation_in_words}
    facts: dict[str, Any] = {}

    def keep(name: str, key: dict[str, Any], make: Callable[[], Any]) -> Any:
        facts[name] = run.store.json(f"facts/{name}", {"origin": run.origin, **key}, make)
        return facts[name]

    fitting, _ = crops_of(data, "train", count=FITTING_CROPS, size=side, seed=1)
    shaken = args.degradation == "shake"
    judged = crops_of(data, "test", count=TEST_CROPS, size=size)
    by_stage = {"crops": TEST_CROPS, "size": args.size, "side": args.side, "aligned": shaken}
    quality = keep("stages", by_stage, lambda: stage_quality(net, *judged, fitting, aligned=shaken))
    degraded, clean = crops_of(data, "train", count=SALIENCY_CROPS, size=(SALIENCY_SIDE, SALIENCY_SIDE))
    values = {
        metric: np.array(
            keep(metric, {}, lambda metric=metric: saliency(net, degraded, clean, blocks, metric=metric).tolist())
        )
        for metric in METRICS
    }
    times = keep("times_ms", {"size": args.size}, lambda: times_ms(net, sites, size, args.samples))
    validation = crops_of(data, "validation", count=args.crops, size=side)
    by_removal = {"crops": args.crops, "side": args.side}
    psnr_db = keep("removals_db", by_removal, lambda: removals_db(net, sites, fitting, *validation))

    drops = np.array([psnr_db["whole"] - psnr_db[site.path] for site in blocks])
    values["MACs"] = np.array([float(site.macs) for site in blocks])
    values["time"] = np.array([times[site.shape_key][0] for site in blocks])
    ranks = {name: rank_agreement(value, drops) for name, value in values.items()}
    rank_rows = [[name, spread(rank[0], rank[1:])] for name, rank in ranks.items()]
    name = f"maxim_facts_{args.label}"
    hand_out(
        name,
        {
            f"{name}_stages": stages_table(quality),
            f"{name}_sites": kinds_table(blocks, drops, times),
            f"{name}_saliency": (["metric", f"Spearman with what {len(blocks)} sites are worth [95 %]"], rank_rows),
        },
        about
        | facts
        | {
            "sites": {site.path: site.block for site in blocks},
            "rank_correlation": ranks,
            "worth_more_than_0.3_db": int((drops > 0.3).sum()),
            "better_removed": int((drops < 0).sum()),
        },
        draw(blocks, drops, ranks, teacher.description),
        page="maxim.md" if args.publish else None,
        folder=args.out / "studies",
    )


if __name__ == "__main__":
    main()
