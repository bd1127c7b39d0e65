"""Networks side by side: PSNR on the embedded test photographs and latency, all in one interleaved session.

    python benchmarks/compare_networks.py teacher=runs/demo/export/teacher.onnx student=runs/demo/export/student.onnx \
        control=runs/control/weights.safetensors

Checkpoints are exported in their deployed form first. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from netgraft.data.images import DataConfig, crops_of, whole_images
from netgraft.devices import MeasureProtocol, OnnxRuntimeDevice, measure
from netgraft.evaluate import evaluate
from netgraft.export import export
from netgraft.nets.load import load_teacher
from netgraft.restore import open_restorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--root", type=Path, help="folder with validation/ and test/ of sharp photographs")
    parser.add_argument("--samples", type=int, default=40)
    args = parser.parse_args()
    data = DataConfig(source="sharp", root=args.root) if args.root else DataConfig()
    images, device = whole_images(data, "test"), OnnxRuntimeDevice()
    example, _ = crops_of(data, "validation", count=1, size=(256, 256))
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for entry in args.networks:
            name, _, file = entry.partition("=")
            path = Path(file)
            if path.suffix != ".onnx":
                path = export(load_teacher(path).module, Path(folder), name, [example]).fixed
            files[name] = path
        runnables = {name: device.load(path) for name, path in files.items()}
        inputs = dict.fromkeys(runnables, example.numpy())
        latencies = measure(runnables, inputs, MeasureProtocol(samples=args.samples), device.clock)
        scores = {name: evaluate(open_restorer(path), images).mean() for name, path in files.items()}
    degraded = evaluate(lambda image: image, images).mean()
    table = Table(title=f"{len(images)} test photographs, degraded {degraded:.2f} dB; {device.description.hardware}")
    for column in ("network", "psnr_db", "latency_ms median [quartiles]"):
        table.add_column(column)
    for name, ms in latencies.items():
        table.add_row(name, f"{scores[name]:.2f}", f"{ms.median_ms:.1f} [{ms.q25_ms:.1f}, {ms.q75_ms:.1f}]")
    Console().print(table)
    record = {
        name: {"psnr_db": scores[name], "latency_ms": [ms.median_ms, ms.q25_ms, ms.q75_ms]}
        for name, ms in latencies.items()
    }
    described = {"device": device.description.as_dict(), "torch": torch.__version__}
    print(json.dumps({"degraded_psnr_db": degraded, "networks": record} | described))


if __name__ == "__main__":
    main()
