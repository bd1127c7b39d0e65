"""Training a teacher in a folder: checkpoints, exact resume, validation and the weights that come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from netgraft.data.crops import crop_batches
from netgraft.data.images import DataConfig, crops_of, fingerprint, train_source
from netgraft.errors import ConfigError
from netgraft.evaluate import batch_psnr_db
from netgraft.nets.checkpoint import save_weights, weights_digest
from netgraft.nets.load import Teacher
from netgraft.nets.nafnet import NafNet, NafNetShape
from netgraft.store import RunStore
from netgraft.train import TrainConfig, Training, new_network

CHECKPOINT_SECONDS = 120.0
"""Longest work that a kill can cost."""
VALIDATION_CROPS = 16
"""Crops of 256x256 that the printed validation PSNR is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """What a training reached."""

    weights: Path
    """The moving average of the weights, as safetensors in half precision."""
    steps: int
    """Optimizer steps done."""
    degraded_db: float
    """PSNR of the degraded validation crops."""
    restored_db: float
    """PSNR of the restored ones."""
    seconds: float
    """Wall time of this session."""


def pretrain(
    network: NafNetShape | Teacher,
    config: TrainConfig,
    data: DataConfig,
    out: Path,
    *,
    minutes: float | None = None,
    workers: int = 1,
    on_step: Callable[[Training], None] = lambda _: None,
) -> TrainingReport:
    """Train a network on the images that ``data`` describes, into the folder ``out``.

    The same call continues from the last checkpoint. network: the shape of a new NAFNet, or a pretrained network of any
    kind that learns on, in place. minutes: stop after so long, with a checkpoint; the next call goes on.

    Raises:
        ConfigError: the checkpoint in the folder belongs to another recipe or network.
    """
    store = RunStore(out)
    with store.lock():
        recipe: dict[str, Any] = {"config": config.model_dump(mode="json"), "data": fingerprint(data)}
        metadata: Mapping[str, str] = {}
        if isinstance(network, NafNetShape):
            recipe |= {"shape": str(network)}
            training = Training(_new(network, config), config)
        else:
            recipe |= {"start": weights_digest(network.module)}
            training, metadata = Training(network.module, config), network.metadata
        path = store.path("checkpoint", recipe, ".pt")
        if path.exists():
            training.load_state(store.load_tensors(path))
        elif list(path.parent.glob("checkpoint.*.pt")):
            raise ConfigError(
                f"{out}: holds the checkpoint of another training (other recipe, network or images); "
                "use the same settings to continue it, or another --out"
            )
        begin = last = time.monotonic()

        def after_step(now: Training) -> None:
            nonlocal last
            on_step(now)
            if time.monotonic() - last >= CHECKPOINT_SECONDS:
                store.save_tensors(path, now.state())
                last = time.monotonic()
            if minutes is not None and time.monotonic() - begin >= 60 * minutes:
                raise _OutOfTimeError

        batches = crop_batches(
            train_source(data, seed=config.seed),
            config.crops,
            seed=config.seed,
            first_step=training.step,
            workers=workers,
        )
        # Closed, so that no worker outlives the training: each holds the folder's lock as well.
        with suppress(_OutOfTimeError), closing(batches):
            training.run(batches, after_step)
        store.save_tensors(path, training.state())
        return _report(training, metadata, data, out, time.monotonic() - begin)


class _OutOfTimeError(Exception):
    """The time that was asked for is over."""


def _new(shape: NafNetShape, config: TrainConfig) -> NafNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return new_network(NafNet(shape), config)


def _report(
    training: Training, metadata: Mapping[str, str], data: DataConfig, out: Path, seconds: float
) -> TrainingReport:
    degraded, clean = crops_of(data, "validation", count=VALIDATION_CROPS, size=(256, 256))
    weights = out / "weights.safetensors"
    save_weights(training.average, weights, metadata={**metadata, "steps": str(training.step)})
    return TrainingReport(
        weights=weights,
        steps=training.step,
        degraded_db=batch_psnr_db(torch.nn.Identity(), degraded, clean),
        restored_db=batch_psnr_db(training.average, degraded, clean),
        seconds=seconds,
    )
