"""Surrogates by feature distillation: each learns to give the teacher's output at its site from the teacher's input.

One teacher pass feeds every surrogate of the batch, whatever its site and operator. Each surrogate's loss stands
alone, so that training many together gives exactly what training them one at a time would. A joint phase may follow,
in which they learn from each other's outputs instead of the teacher's (see :mod:`netgraft.joint`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from netgraft.compute import CPU, moved
from netgraft.features import SiteFeatures, site_features
from netgraft.joint import draw_path, learn_along
from netgraft.nets.blocks import Calibrated, calibrating
from netgraft.nets.losses import normalized_l2
from netgraft.nets.sited import Fitted
from netgraft.operators import Operator, options_for
from netgraft.sites import Site

SurrogateKey = tuple[str, str]
"""(site path, operator name)."""


class DistillConfig(BaseModel):
    """How the surrogates learn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(300, ge=1)
    """Optimizer steps; each is one batch through the teacher."""
    joint_steps: int = Field(0, ge=0)
    """Further steps, each along a random assignment: every surrogate sees what those before it give."""
    batch: int = Field(8, ge=1)
    """Crops a batch."""
    crop: int = Field(64, ge=16)
    """Side of the crops, in pixels."""
    data_fraction: float = Field(0.25, gt=0, le=1)
    """Share of the training photographs that the surrogates see (25 % in arXiv 2601.11685)."""
    learning_rate: float = Field(2e-3, gt=0)
    """Of operators that start afresh; those from the teacher's weights learn at a tenth of it."""

    @property
    def all_steps(self) -> int:
        """Batches in all."""
        return self.steps + self.joint_steps


def start_surrogates(
    module: nn.Module, sites: Sequence[Site], pool: Mapping[str, Operator], *, seed: int
) -> dict[SurrogateKey, nn.Module]:
    """A new, untrained module for every site and operator that fits it."""
    started = {}
    with torch.random.fork_rng(devices=[]):
        for site in sites:
            for name in options_for(site, pool)[1:]:
                # A seed of its own, so that each starts alike whichever others are built with it.
                torch.manual_seed(seed + zlib.crc32(f"{site.path}|{name}".encode()))
                started[site.path, name] = pool[name].module_at(site, module.get_submodule(site.path))
    return started


def fit_surrogates(
    modules: Mapping[SurrogateKey, nn.Module], features: Mapping[str, SiteFeatures]
) -> dict[SurrogateKey, float]:
    """Fit in closed form what can be, and calibrate what is frozen, in place; features: of a calibration batch.

    For surrogates that are new: after distillation it would undo part of what they learned.
    Returns the normalized L2 of every module on these features.
    """
    for (path, _), module in modules.items():
        if isinstance(module, Fitted):
            module.fit(features[path].inputs, features[path].y)
        if any(isinstance(part, Calibrated) for part in module.modules()):
            with torch.no_grad(), calibrating(module):
                module(*features[path].inputs)
    return surrogate_errors(modules, features)


@torch.no_grad()
def surrogate_errors(
    modules: Mapping[SurrogateKey, nn.Module], features: Mapping[str, SiteFeatures]
) -> dict[SurrogateKey, float]:
    """The normalized L2 of every module, as it is, on these features."""
    return {
        (path, name): float(normalized_l2(module(*features[path].inputs), features[path].y))
        for (path, name), module in modules.items()
    }


class Distillation:
    """A distillation in progress: step by step, with a state that can be saved and continued exactly.

    Args:
        module: the teacher; left untouched.
        surrogates: modules that learn, trained in place; the others stand on the joint phase's paths.
        pool: the operators that they come from.
        seed: of the joint phase's assignments.
        compute: where PyTorch computes; the surrogates stay there until :meth:`run` is over.
    """

    def __init__(
        self,
        module: nn.Module,
        sites: Sequence[Site],
        surrogates: Mapping[SurrogateKey, nn.Module],
        pool: Mapping[str, Operator],
        config: DistillConfig,
        *,
        seed: int = 0,
        compute: str = CPU,
    ) -> None:
        self.compute = compute
        self.module = moved(module, compute)
        self.sites = sites
        self.config = config
        self.seed = seed
        self.surrogates = surrogates
        for surrogate in surrogates.values():
            surrogate.to(compute)
        self.learning = {
            key: surrogate.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for key, surrogate in surrogates.items()
            if pool[key[1]].learning == "distill"
        }
        self.losses: dict[SurrogateKey, list[float]] = {key: [] for key in self.learning}
        """Normalized L2 of every step on the teacher's features; the joint phase adds none."""
        self.step = 0
        groups = [
            {
                "params": [p for p in surrogate.parameters() if p.requires_grad],
                "share": 0.1 if pool[key[1]].from_teacher else 1.0,
            }
            for key, surrogate in self.learning.items()
        ]
        self.optimizer = torch.optim.AdamW(
            groups or [nn.Parameter(torch.zeros(()))], lr=0.0, betas=(0.9, 0.99), weight_decay=0, fused=True
        )

    def run(
        self,
        batches: Iterable[Tensor],
        on_step: Callable[[Distillation], None] = lambda _: None,
    ) -> None:
        """Train on batches of degraded images (b, 3, h, w) until the configured number of steps is done."""
        for images in batches:
            if self.step >= self.config.all_steps or not self.learning:
                break
            self._learn(images.to(self.compute, memory_format=torch.channels_last))
            on_step(self)
        for surrogate in self.surrogates.values():
            surrogate.to(CPU)

    def _learn(self, images: Tensor) -> None:
        features = site_features(self.module, images, self.sites)
        apart = self.step < self.config.steps
        done = self.step / self.config.steps if apart else (self.step - self.config.steps) / self.config.joint_steps
        for group in self.optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * done))
            group["lr"] = self.config.learning_rate * group.get("share", 1.0) * cosine
        # Without gradients, not with zeros: the optimizer then leaves alone what learned nothing.
        self.optimizer.zero_grad(set_to_none=True)
        if apart:
            self._learn_apart(features)
        else:
            self._learn_together(images, features)
        self.optimizer.step()
        self.step += 1

    def _learn_apart(self, features: Mapping[str, SiteFeatures]) -> None:
        for (path, name), surrogate in self.learning.items():
            loss = normalized_l2(surrogate(*features[path].inputs), features[path].y)
            # One backward pass each: the graph of a single surrogate is all that is ever held.
            loss.backward()  # type: ignore[no-untyped-call]
            self.losses[path, name].append(float(loss.detach()))

    def _learn_together(self, images: Tensor, features: Mapping[str, SiteFeatures]) -> None:
        # By the step's number, so that a distillation that continues draws what it would have drawn.
        chosen = draw_path(list(self.surrogates), np.random.default_rng((self.seed, self.step)))
        path = {site: self.surrogates[site, name] for site, name in chosen.items()}
        learners: dict[str, dict[str, nn.Module]] = {}
        for (site, name), surrogate in self.learning.items():
            learners.setdefault(site, {})[name] = surrogate
        learn_along(self.module, path, learners, images, features)

    def state(self) -> dict[str, object]:
        """Everything needed to continue: plain containers of the live tensors, and numbers; save it before going on."""
        return {
            "step": self.step,
            "modules": {"|".join(key): m.state_dict() for key, m in self.learning.items()},
            "optimizer": self.optimizer.state_dict(),
            "losses": {"|".join(key): losses for key, losses in self.losses.items()},
        }

    def load_state(self, state: Mapping[str, object]) -> None:
        """Continue from a saved state, in place."""
        modules, losses = state["modules"], state["losses"]
        assert isinstance(modules, dict)
        assert isinstance(losses, dict)
        for key, surrogate in self.learning.items():
            surrogate.load_state_dict(modules["|".join(key)])
            self.losses[key] = list(losses["|".join(key)])
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.step = int(state["step"])  # type: ignore[call-overload]
