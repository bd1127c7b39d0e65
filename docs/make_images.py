"""Draw the README's pictures from a finished run: ``python docs/make_images.py runs/demo``.

front.png: the front of the search, and where teacher and fine-tuned student were measured. restored.png: a crop of a
test photograph, degraded, through the exported student, and clean.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from netgraft.data.images import DataConfig, whole_images
from netgraft.imaging import write_image
from netgraft.restore import restore

FOLDER = Path(__file__).with_name("images")
PHOTO, TOP, LEFT, SIDE = "backstretch-dome-116c30", 256, 640, 320


def draw_front(run: Path) -> None:
    figures = json.loads((run / "result.json").read_text())
    points = np.array(sorted((row["latency_ms"], row["quality_loss_db"]) for row in figures["front"]))
    teacher, student = figures["teacher"], figures["student"]
    figure, axes = plt.subplots(figsize=(7, 4), dpi=130)
    axes.step(points[:, 0], points[:, 1], where="post", color="#0e9384", zorder=1)
    axes.scatter(points[:, 0], points[:, 1], color="#0e9384", s=26, label="front, before fine-tuning (measured)")
    axes.scatter(teacher["latency_ms"]["median"], 0, marker="s", s=70, color="#667085", label="teacher (measured)")
    loss = teacher["psnr_db"] - student["psnr_db"]
    axes.scatter(student["latency_ms"]["median"], loss, marker="*", s=160, color="#d6457f", zorder=3)
    axes.scatter([], [], marker="*", s=110, color="#d6457f", label="student, fine-tuned (measured, test images)")
    axes.set_xlabel("latency in ms, 256x256, one thread")
    axes.set_ylabel("PSNR lost in dB")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(FOLDER / "front.png")


def draw_restored(run: Path) -> None:
    image = next(image for image in whole_images(DataConfig(), "test") if image.name == PHOTO)
    cut = (slice(TOP, TOP + SIDE), slice(LEFT, LEFT + SIDE))
    restored = restore(image.degraded, run / "export" / "student.onnx")
    gap = np.full((SIDE, 8, 3), 255, np.uint8)
    parts = [image.degraded[cut], gap, restored[cut], gap, image.clean[cut]]
    write_image(FOLDER / "restored.png", np.concatenate(parts, axis=1))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    draw_front(Path(sys.argv[1]))
    draw_restored(Path(sys.argv[1]))
