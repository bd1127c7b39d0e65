"""Students of the studies: random assignments, surrogates that never learned, and a short fine-tuning for all alike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from netgraft.assemble import Assignment, assemble
from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import crops_of, train_source
from netgraft.distill import SurrogateKey, fit_surrogates, start_surrogates
from netgraft.features import site_features
from netgraft.finetune import FinetuneConfig, Finetuning
from netgraft.sites import KEEP
from netgraft.stages import Run, Space


def random_assignment(space: Space, rng: np.random.Generator, share: float) -> dict[str, str]:
    """Each site that has a choice changes with probability ``share``, to an operator drawn evenly."""
    changed = {}
    for site, names in zip(space.sites, space.options, strict=True):
        if len(names) > 1 and rng.random() < share:
            changed[site.path] = str(rng.choice(names[1:]))
    return changed


def fresh_surrogates(run: Run) -> dict[SurrogateKey, nn.Module]:
    """Surrogates as they are before they learn: fitted in closed form and calibrated where they can be."""
    config = run.config
    modules = start_surrogates(run.teacher.module, run.open_sites, run.pool, seed=config.seed)
    size = (config.distill.crop, config.distill.crop)
    degraded, _ = crops_of(config.data, "train", count=8, size=size, seed=config.seed)
    fit_surrogates(modules, site_features(run.teacher.module, degraded, run.open_sites))
    return {key: module.eval() for key, module in modules.items()}


def student(run: Run, assignment: Assignment, surrogates: Mapping[SurrogateKey, nn.Module]) -> nn.Module:
    """An assembled student, its frozen norms calibrated on the run's calibration crops."""
    return assemble(run.teacher.module, assignment, surrogates, calibration=run.calibration)


def changed(assignment: Assignment) -> dict[str, str]:
    """The sites that do not keep the teacher's block."""
    return {path: name for path, name in assignment.items() if name != KEEP}


def finetuned(run: Run, start: nn.Module, config: FinetuneConfig, *, seed: int) -> nn.Module:
    """The student after fine-tuning on the run's training images."""
    if not config.steps:
        return start
    work = Finetuning(start, run.teacher.module, config)
    stage = CropStage(steps=config.steps, size=config.crop, batch=config.batch)
    work.run(crop_batches(train_source(run.config.data, seed=run.config.seed), [stage], seed=seed))
    return work.average
