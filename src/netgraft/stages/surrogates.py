"""A trained replacement for every operator at every open site, and networks of any choice of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from netgraft.assemble import assemble
from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import crops_of, train_source
from netgraft.distill import Distillation, SurrogateKey, fit_surrogates, start_surrogates, surrogate_errors
from netgraft.features import site_features
from netgraft.operators import options_for
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


class SurrogateStages(TeacherStages):
    """Distills the surrogates; a stopped distillation continues at its last checkpoint."""

    @cached_property
    def surrogates(self) -> Surrogates:
        """A trained replacement for every operator at every open site."""
        with self._timed("distill"):
            modules = start_surrogates(self.teacher.module, self.open_sites, self.pool, seed=self.config.seed)
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
        return Surrogates(
            modules=modules,
            losses={key: entry["losses"] for key, entry in stored.items()},
            errors={key: entry["error"] for key, entry in stored.items()},
        )

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
            made_from["together"] = [[site.path, *options_for(site, self.pool)[1:]] for site in self.open_sites]
        return self.store.path(f"surrogates/{key[0]}.{key[1]}", made_from, ".pt")

    def _distill(self, modules: dict[SurrogateKey, nn.Module], paths: Mapping[SurrogateKey, Path]) -> None:
        config, data = self.config.distill, self.config.data
        degraded, _ = crops_of(data, "train", count=8, size=(config.crop, config.crop), seed=self.config.seed)
        features = site_features(self.teacher.module, degraded, self.open_sites)
        fit_surrogates(modules, features)
        work = Distillation(self.teacher.module, self.open_sites, modules, self.pool, config, seed=self.config.seed)
        progress_path = self.store.path("surrogates/progress", sorted(str(paths[key]) for key in modules), ".pt")
        if progress_path.exists():
            work.load_state(self.store.load_tensors(progress_path))
        save = CheckpointTimer()

        def on_step(now: Distillation) -> None:
            self.progress("distill", now.step, config.all_steps)
            if save.due():
                self.store.save_tensors(progress_path, now.state())

        source = train_source(data, fraction=config.data_fraction, seed=self.config.seed)
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
