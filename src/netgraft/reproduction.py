"""The experiment of arXiv 2601.11685, repeated: from a checkpoint and four data sets to the paper's tables.

    refit on GoPro -> fastest and knee -> GoPro, HIDE, RealBlur-J/R -> adaptation to DPDD -> tables

What the paper does not state is set here, and said in the tables: protocols, training lengths, seeds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from netgraft.adapt import AdaptConfig
from netgraft.config import PRESETS, GeneralizationConfig, RunConfig, TeacherConfig
from netgraft.data.images import DataConfig, fingerprint
from netgraft.data.layouts import LAYOUTS
from netgraft.data.pairs import list_pairs
from netgraft.data.testset import open_test_set
from netgraft.entrants import Entrant, network_entrant, student_entrant
from netgraft.errors import ConfigError, DatasetError
from netgraft.files import make_folder, write_atomically
from netgraft.judgement import document, judge, rows
from netgraft.nets.load import Teacher, load_teacher
from netgraft.nets.nafnet import NafNet, NafNetShape, localize
from netgraft.pipeline import adapt, refit
from netgraft.stages import Progress, silent, start_from
from netgraft.stages.folder import digest_of_files

FOLDERS: Mapping[str, tuple[str, ...]] = {
    "gopro": ("GOPRO_Large", "GoPro", "gopro"),
    "hide": ("HIDE_dataset", "HIDE", "hide"),
    "realblur": ("RealBlur", "realblur"),
    "dpdd": ("dd_dp_dataset_canon", "dd_dp_dataset_png", "DPDD", "dpdd"),
}
"""What the folder of each data set may be called, the name that it is shipped under first."""
POINTS: tuple[Literal["fastest"], Literal["knee"]] = ("fastest", "knee")
"""Points of the front that are fine-tuned; the paper uses the first."""
SHAPE = NafNetShape(width=32, encoder_blocks=(1, 1, 1, 28), middle_blocks=1, decoder_blocks=(1, 1, 1, 1))
"""Of the paper's teacher."""
INFERENCE: Literal["whole"] = "whole"
BITS: Literal[8] = 8
"""Also for DPDD, as others report single images."""
TLC = (256, 256)
"""The crops that NAFNet was trained on: local statistics are computed over 1.5 times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A test set, and how it is judged."""

    data: str
    """Of ``FOLDERS``."""
    layout: str
    aligned: bool = False

    @property
    def name(self) -> str:
        """Of its file and its rows."""
        return self.layout + ("_aligned" if self.aligned else "")


TRIALS = (
    Trial(data="gopro", layout="gopro"),
    Trial(data="hide", layout="hide"),
    Trial(data="realblur", layout="realblur_j"),
    Trial(data="realblur", layout="realblur_j", aligned=True),
    Trial(data="realblur", layout="realblur_r"),
    Trial(data="realblur", layout="realblur_r", aligned=True),
)
"""RealBlur both ways: the paper's figures fit those without alignment, others' are with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What is repeated, with what."""

    teacher: Path | None = None
    """The official checkpoint NAFNet-GoPro-width32.pth; None for an untrained network like it, to estimate by."""
    root: Path | None = None
    """The folder that holds the data sets; None for none, to estimate by what is published of them."""
    compute: str = "cpu"
    """Where PyTorch trains and judges."""
    device: str = "onnxruntime"
    """Where latencies are measured."""
    threads: int = 1
    check: bool = True
    """Look at every test pair before anything is trained."""
    tiny: bool = False
    """Everything in miniature, on however few images: to see that all of it works."""

    def data(self, data: str, layout: str, test_images: int | None = None) -> DataConfig:
        """A data set in a layout; ``data`` is one of ``FOLDERS``.

        Raises:
            DatasetError: it is not there.
        """
        if self.root is None:
            return DataConfig()
        for name in FOLDERS[data]:
            if (self.root / name).is_dir():
                return DataConfig(source=layout, root=self.root / name, test_images=test_images)
        raise DatasetError(f"{self.root}: lacks {data}: put it into a folder called {FOLDERS[data][0]}")

    def run_config(self, point: Literal["fastest", "knee"]) -> RunConfig:
        """The refit on GoPro, whose student is a point of the front."""
        paper = PRESETS["paper"]()
        values = {
            "compute": self.compute,
            "teacher": TeacherConfig(path=self.teacher, tlc=TLC),
            # A handful: all of them are judged afterwards, whole and in one pass.
            "data": self.data("gopro", "gopro", test_images=10),
            "device": paper.device.model_copy(update={"name": self.device, "threads": self.threads}),
            "search": paper.search.model_copy(update={"choose": point, "crops": 16}),
            "distill": paper.distill.model_copy(update={"steps": 3000, "batch": 16, "crop": 128}),
            "finetune": paper.finetune.model_copy(update={"steps": 5000, "batch": 8, "crop": 192}),
            "generalization": GeneralizationConfig(crops=0),
        }
        if self.tiny:
            values |= {
                "size": (64, 64),
                "data": self.data("gopro", "gopro", test_images=1),
                "saliency": paper.saliency.model_copy(update={"metrics": ("fisher",), "crops": 1, "crop": 32}),
                "space": paper.space.model_copy(update={"operators": ("drop", "conv3", "naf_no_attention")}),
                "distill": paper.distill.model_copy(update={"steps": 2, "batch": 1, "crop": 32}),
                "device": paper.device.model_copy(
                    update={
                        "name": self.device,
                        "samples": 2,
                        "whole_samples": 2,
                        "final_samples": 2,
                        "check_networks": 3,
                    }
                ),
                "search": paper.search.model_copy(
                    update={"choose": point, "method": "random", "budget": 20, "crops": 1, "calibration": 1}
                ),
                "finetune": paper.finetune.model_copy(update={"steps": 2, "batch": 1, "crop": 32}),
            }
        return paper.model_copy(update=values)

    def adapt_config(self) -> AdaptConfig:
        """The adaptation to DPDD."""
        data = self.data("dpdd", "dpdd", test_images=1 if self.tiny else 10)
        if self.tiny:
            return AdaptConfig(
                data=data,
                steps=2,
                batch=1,
                crop=32,
                validation_crops=1,
                validation_crop=64,
                check_every=1,
                samples=2,
                compute=self.compute,
            )
        return AdaptConfig(
            data=data, steps=5000, batch=8, crop=192, check_every=250, patience=1500, compute=self.compute
        )


def require_data(experiment: Experiment) -> dict[str, int]:
    """How many pairs each test set has, once all data sets are there and as large as published.

    Raises:
        DatasetError: one is missing or incomplete.
    """
    counts = {}
    needed = [("gopro", "gopro", "train"), ("dpdd", "dpdd", "train"), ("dpdd", "dpdd", "val"), ("dpdd", "dpdd", "test")]
    for data, layout, split in (*needed, *((trial.data, trial.layout, "test") for trial in TRIALS)):
        root, expected = experiment.data(data, layout).root, LAYOUTS[layout].counts[split]
        found = expected if root is None else len(list_pairs(layout, root, split))
        if found != expected and not experiment.tiny:
            raise DatasetError(f"{root}: {layout} {split} has {expected} pairs as published, but here are {found}")
        if split == "test":
            counts[layout] = found
    return counts


def reproduce(experiment: Experiment, out: Path, progress: Progress = silent) -> dict[str, Any]:
    """Repeat the experiment, and return its figures, which also stand in ``out/result.json``.

    The same call continues what was stopped.

    Raises:
        NetgraftError: a data set, the checkpoint or the device cannot serve; what was done is kept.
    """
    if experiment.root is None or experiment.teacher is None:
        raise ConfigError("an experiment without data or without a checkpoint can be estimated, not repeated")
    require_data(experiment)
    teacher = official(experiment)
    make_folder(out)
    if experiment.check:
        _check(experiment, out, progress)
    runs = {point: _refitted(experiment, point, out, progress) for point in POINTS}
    compute = experiment.compute
    networks = {"teacher": network_entrant(teacher, compute)} | {
        point: student_entrant(out / point / "export" / "student.safetensors", compute) for point in POINTS
    }
    judged = {
        trial.name: _judged(experiment, trial.data, trial.layout, networks, out, progress, aligned=trial.aligned)
        for trial in TRIALS
    }
    start = start_from(out / POINTS[0], progress=progress)
    adapted = adapt(start, experiment.adapt_config(), out / "dpdd", progress)
    tuned = {
        "teacher": networks["teacher"],
        "student": networks[POINTS[0]],
        "teacher tuned": network_entrant(load_teacher(out / "dpdd" / "teacher_tuned.safetensors", tlc=TLC), compute),
        "student tuned": student_entrant(out / "dpdd" / "student_tuned.safetensors", compute),
    }
    judged["dpdd"] = _judged(experiment, "dpdd", "dpdd", tuned, out, progress)
    figures = {
        "schema": 1,
        "paper": "arXiv 2601.11685",
        "tiny": experiment.tiny,
        "refit": {point: _refit_figures(run) for point, run in runs.items()},
        "adaptation": {"images": adapted["images"], "adaptation": adapted["adaptation"]},
        "evaluations": judged,
    }
    write_atomically(out / "result.json", json.dumps(figures, indent=1, allow_nan=False).encode())
    return figures


def official(experiment: Experiment) -> Teacher:
    """The teacher, with local statistics.

    Raises:
        ConfigError: it is not the network that the paper names.
        CheckpointError: it cannot be read.
    """
    if experiment.teacher is None:
        network = NafNet(SHAPE).eval()
        localize(network, TLC)
        return Teacher(module=network, tlc=TLC, source="untrained")
    teacher = load_teacher(experiment.teacher, tlc=TLC)
    shape = teacher.design.shape
    if not isinstance(shape, NafNetShape):
        raise ConfigError(f"{experiment.teacher}: {teacher.description}; the paper's teacher is a NAFNet")
    blocks = (*shape.encoder_blocks, shape.middle_blocks, *shape.decoder_blocks)
    if not experiment.tiny and shape != SHAPE:
        raise ConfigError(
            f"{experiment.teacher}: width {shape.width} and blocks {list(blocks)}; the paper's teacher is NAFNet of "
            "width 32, (1, 1, 1, 28), 1, (1, 1, 1, 1): NAFNet-GoPro-width32.pth"
        )
    return teacher


def _refitted(
    experiment: Experiment, point: Literal["fastest", "knee"], out: Path, progress: Progress
) -> dict[str, Any]:
    """The run whose student is this point of the front."""
    first, here = out / POINTS[0] / "artifacts", out / point / "artifacts"
    if point != POINTS[0] and not here.exists():
        # One search serves both: what they share is found by what it was made from.
        partly = here.with_name("copying")
        shutil.rmtree(partly, ignore_errors=True)
        shutil.copytree(first, partly)
        partly.rename(here)
    config = experiment.run_config(point)
    (out / point).mkdir(parents=True, exist_ok=True)
    write_atomically(out / point / "config.json", config.model_dump_json(indent=1).encode())
    return refit(config, out / point, progress)


def _refit_figures(run: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables need of a run."""
    return {
        name: {figure: run[name][figure] for figure in ("latency_ms", "macs", "params", "size_bytes")}
        for name in ("teacher", "student")
    } | {"assignment": run["student"]["assignment"], "device": run["device"], "seconds": run["seconds"]}


def _judged(
    experiment: Experiment,
    data: str,
    layout: str,
    networks: Mapping[str, Entrant],
    out: Path,
    progress: Progress,
    *,
    aligned: bool = False,
) -> dict[str, Any]:
    """The document of a test set, whole images; made once, as long as the networks' files stay what they are."""
    name = layout + ("_aligned" if aligned else "")
    path = out / "evaluations" / f"{name}.json"
    images = experiment.data(data, layout)
    key = {
        "images": fingerprint(images),
        "networks": {label: digest_of_files(Path(entrant.source)) for label, entrant in networks.items()},
        "protocol": [INFERENCE, BITS, aligned],
    }
    stored = _stored(path, key)
    if stored is not None:
        return stored
    tests = open_test_set(images, partial=experiment.tiny, check=False)
    judgement = judge(
        networks, tests, inference=INFERENCE, bits=BITS, aligned=aligned, progress=_named(progress, f"evaluate-{name}")
    )
    told = document(judgement)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(told | {"scores": rows(judgement), "made_from": key}, indent=1).encode())
    return told


def _check(experiment: Experiment, out: Path, progress: Progress) -> None:
    """Look at every test pair once, as long as the files stay what they are."""
    noted = out / "checked.json"
    folders = {trial.layout: trial.data for trial in TRIALS} | {"dpdd": "dpdd"}
    seen = {layout: fingerprint(experiment.data(data, layout)) for layout, data in folders.items()}
    if noted.is_file() and noted.read_text(encoding="utf-8") == json.dumps(seen):
        return
    for layout, data in folders.items():
        tests = experiment.data(data, layout)
        open_test_set(tests, partial=experiment.tiny, threads=2, progress=_named(progress, f"check-{layout}"))
    write_atomically(noted, json.dumps(seen).encode())


def _named(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total)


def _stored(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stored, dict) or stored.pop("made_from", None) != key:
        return None
    stored.pop("scores", None)
    return stored
