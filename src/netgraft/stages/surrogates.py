"""A trained replacement for every operator at every open site, and networks of any choice of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from netgraft.assemble import assemble
from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import crops_of, train_source
from netgraft.distill import Distillation, SurrogateKey, fit_surrogates, start_surrogates, surrogate_errors
from netgraft.features import SiteFeatures, site_features
from netgraft.nets.blocks import calibrating
from netgraft.nets.quantized import QuantizedBlock
from netgraft.operators import in_int8, in_single, options_for
from netgraft.sites import KEEP
from netgraft.stages.folder import CheckpointTimer
from netgraft.stages.teacher import TeacherStages


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogates:
    """Trained replacement modules and how they learned."""

    modules: dict[SurrogateKey, nn.Module]
    losses: dict[SurrogateKey, list[float]]
    """Normalized L2 by training step; empty for those that are fitted or exact."""
    errors: dict[SurrogateKey, float]
    """Normalized L2 on the calibration features, at the end."""


CALIBRATION_SEED = 2
"""Of the crops that networks are quantized on: others than those that students are calibrated on."""


class SurrogateStages(TeacherStages):
    """Distills the surrogates; a stopped distillation continues at its last checkpoint."""

    @cached_property
    def surrogates(self) -> Surrogates:
        """A trained replacement for every operator at every open site."""
        with self._timed("distill"):
            modules = start_surrogates(self.teacher.module, self.open_sites, self.learned, seed=self.config.seed)
            paths = {key: self._surrogate_path(key) for key in modules}
            missing = {key: module for key, module in modules.items() if not paths[key].exists()}
            if missing and self.config.distill.joint_steps:
                # Each learns from the others: one alone cannot be made again.
                missing = modules
            if missing:
                self._distill(missing, paths)
            stored = {key: self.store.load_tensors(path) for key, path in paths.items()}
        for key, module in modules.items():
            module.load_state_dict(stored[key]["module"])
            module.eval()
        errors = {key: float(entry["error"]) for key, entry in stored.items()}
        if self.config.device.mixed:
            twins, twin_errors = self._in_8_bits(modules)
            modules, errors = modules | twins, errors | twin_errors
        return Surrogates(
            modules=modules, losses={key: entry["losses"] for key, entry in stored.items()}, errors=errors
        )

    def _in_8_bits(
        self, trained: Mapping[SurrogateKey, nn.Module]
    ) -> tuple[dict[SurrogateKey, nn.Module], dict[SurrogateKey, float]]:
        """The options that are trained ones, or the teacher's blocks, in 8 bits, and their errors; they learn nothing
        but their ranges."""
        found: dict[SurrogateKey, nn.Module] = {}
        features = self._features()
        for site in self.open_sites:
            for name in filter(in_int8, options_for(site, self.pool)):
                single = in_single(name)
                block = self.teacher.module.get_submodule(site.path) if single == KEEP else trained[site.path, single]
                twin = found[site.path, name] = QuantizedBlock(copy.deepcopy(block)).eval()
                with torch.no_grad(), calibrating(twin, QuantizedBlock):
                    twin(*features[site.path].inputs)
        return found, surrogate_errors(found, features)

    def _features(self) -> Mapping[str, SiteFeatures]:
        """What the open sites take and give on a few training crops."""
        crop = self.config.distill.crop
        degraded, _ = crops_of(self.config.data, "train", count=8, size=(crop, crop), seed=self.config.seed)
        return site_features(self.teacher.module, degraded, self.open_sites)

    @cached_property
    def quantization_crops(self) -> Tensor:
        """The images that networks are quantized on, (n + 1, 3, h, w): what they never reach is cut off, so that
        the first crop comes once more, stretched from black to white."""
        count, size = self.config.device.calibration, self.config.size
        degraded, _ = crops_of(self.config.data, "train", count=count, size=size, seed=CALIBRATION_SEED)
        low, high = degraded[:1].min(), degraded[:1].max()
        return torch.cat([degraded, (degraded[:1] - low) / (high - low).clamp_min(1e-3)])

    @cached_property
    def calibration(self) -> Tensor:
        """The images that each assembled network is calibrated on."""
        degraded, _ = crops_of(
            self.config.data, "train", count=self.config.search.calibration, size=self.config.size, seed=1
        )
        return degraded

    def student_of(self, assignment: Mapping[str, str]) -> nn.Module:
        """A new student, calibrated but not fine-tuned."""
        return assemble(self.teacher.module, assignment, self.surrogates.modules, calibration=self.calibration)

    def _surrogate_path(self, key: SurrogateKey) -> Path:
        made_from = {"schema": 1, "origin": self.origin, "distill": self.config.distill.model_dump(), "key": key}
        if self.config.distill.joint_steps:
            made_from["together"] = [[site.path, *options_for(site, self.learned)[1:]] for site in self.open_sites]
        return self.store.path(f"surrogates/{key[0]}.{key[1]}", made_from, ".pt")

    def _distill(self, modules: dict[SurrogateKey, nn.Module], paths: Mapping[SurrogateKey, Path]) -> None:
        config, features = self.config.distill, self._features()
        fit_surrogates(modules, features)
        seed, compute = self.config.seed, self.config.compute
        work = Distillation(
            self.teacher.module, self.open_sites, modules, self.learned, config, seed=seed, compute=compute
        )
        progress_path = self.store.path("surrogates/progress", sorted(str(paths[key]) for key in modules), ".pt")
        if progress_path.exists():
            work.load_state(self.store.load_tensors(progress_path))
        save = CheckpointTimer()

        def on_step(now: Distillation) -> None:
            self.progress("distill", now.step, config.all_steps)
            if save.due():
                self.store.save_tensors(progress_path, now.state())

        source = train_source(self.config.data, fraction=config.data_fraction, seed=self.config.seed)
        stage = CropStage(steps=config.all_steps, size=config.crop, batch=config.batch)
        batches = crop_batches(source, [stage], seed=self.config.seed, first_step=work.step)
        work.run((degraded for degraded, _ in batches), on_step)
        errors = surrogate_errors(modules, features)
        for key, module in modules.items():
            entry = {
                "module": module.state_dict(),
                "losses": work.losses.get(key, []),
                "error": errors[key],
            }
            self.store.save_tensors(paths[key], entry)
        progress_path.unlink(missing_ok=True)
