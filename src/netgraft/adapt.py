"""Fine-tuning a network to other images, from few of them: its weights change, its architecture does not.

Few images are soon learned by heart. So validation crops are restored every so many steps, the weights that did best on
them are what comes out, and the training stops when nothing has become better for a while. The weights before the first
step take part, so that the outcome is never worse on these crops than what was handed in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from netgraft.compute import CPU
from netgraft.data.images import DataConfig
from netgraft.errors import ConfigError
from netgraft.evaluate import batch_psnr_db
from netgraft.finetune import FinetuneConfig, Finetuning
from netgraft.nets.blocks import deploy
from netgraft.train import Precision


class AdaptConfig(BaseModel):
    """To which images networks are adapted, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataConfig = DataConfig()
    images: int | None = Field(None, ge=1)
    """Training images that are used, drawn by the seed; None for all."""
    steps: int = Field(400, ge=1)
    """Optimizer steps at most."""
    batch: int = Field(8, ge=1)
    """Crops a step."""
    crop: int = Field(96, ge=16)
    """Side of the crops, in pixels."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak of the cosine schedule."""
    average: float = Field(0.99, ge=0, lt=1)
    """Decay of the moving average of the weights, which is what is judged and kept."""
    validation_crops: int = Field(24, ge=1)
    """Crops that choose the weights, spread evenly over the validation images."""
    validation_crop: int = Field(256, ge=16)
    """Side of these, in pixels."""
    check_every: int = Field(25, ge=1)
    """Steps from one look at them to the next."""
    patience: int = Field(150, ge=1)
    """Steps without a better look after which it stops."""
    precision: Precision = "auto"
    samples: int = Field(24, ge=1)
    """Timing samples of each network."""
    compute: str = "cpu"
    """Where PyTorch trains: ``cpu``, or ``cuda``."""
    seed: int = Field(0, ge=0)

    def training(self) -> dict[str, Any]:
        """What the trained weights depend on beside the network and the images."""
        return self.model_dump(mode="json", exclude={"data", "samples", "compute"})


def parse_adapt_config(values: Mapping[str, Any]) -> AdaptConfig:
    """A config from plain data.

    Raises:
        ConfigError: a value is wrong.
    """
    try:
        return AdaptConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {first['msg']}, but it is {first.get('input')!r}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the validation crops said at one step."""

    step: int
    """Optimizer steps before."""
    psnr_db: float
    """Mean PSNR of the validation crops, restored with the averaged weights."""


class Adaptation:
    """An adaptation in progress; the result is :meth:`best`. The network that is handed in does not change.

    validation: (degraded, clean), both (n, 3, h, w) in [0, 1].
    """

    def __init__(self, network: nn.Module, config: AdaptConfig, validation: tuple[Tensor, Tensor]) -> None:
        self.config = config
        self.validation = validation[0].to(config.compute), validation[1].to(config.compute)
        recipe = FinetuneConfig(
            steps=config.steps,
            batch=config.batch,
            crop=config.crop,
            learning_rate=config.learning_rate,
            # Nobody teaches: the teacher does not know these images either.
            distillation=0,
            average=config.average,
            precision=config.precision,
        )
        self.tuning = Finetuning(network, network, recipe, config.compute)
        self.looks: list[Look] = []
        """In the order of their steps."""
        self.weights = _copied(self.tuning.average)
        """Of the best look."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.tuning.step

    @property
    def best_look(self) -> Look:
        """The first of those with the highest PSNR."""
        return max(self.looks, key=lambda look: look.psnr_db)

    @property
    def over(self) -> bool:
        """Whether all steps are done, or nothing became better for long enough."""
        if self.step >= self.config.steps:
            return True
        return bool(self.looks) and self.step - self.best_look.step >= self.config.patience

    def best(self) -> nn.Module:
        """A new network, in eval mode, with the best weights."""
        network: nn.Module = copy.deepcopy(self.tuning.average)
        network.load_state_dict(self.weights)
        return network.requires_grad_(True).eval().to(CPU)

    def run(
        self, batches: Iterable[tuple[Tensor, Tensor]], on_step: Callable[[Adaptation], None] = lambda _: None
    ) -> None:
        """Train on batches (degraded, clean) of (b, 3, h, w), which start at step :attr:`step`, until it is over."""
        if not self.looks:
            self._look()
        coming = iter(batches)
        while not self.over:
            batch = next(coming, None)
            if batch is None:
                return
            self.tuning.run([batch])
            if self.step % self.config.check_every == 0 or self.step == self.config.steps:
                self._look()
            on_step(self)

    def _look(self) -> None:
        # In the form that ships, which is faster and computes the same.
        found = Look(step=self.step, psnr_db=batch_psnr_db(deploy(self.tuning.average), *self.validation))
        if not self.looks or found.psnr_db > self.best_look.psnr_db:
            self.weights = _copied(self.tuning.average)
        self.looks.append(found)

    def state(self) -> dict[str, Any]:
        """Everything needed to continue: plain containers of the live tensors, and numbers; save it before going on."""
        return {
            "tuning": self.tuning.state(),
            "weights": self.weights,
            "looks": [(look.step, look.psnr_db) for look in self.looks],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state, in place."""
        self.tuning.load_state(state["tuning"])
        self.weights = dict(state["weights"])
        self.looks = [Look(step=int(step), psnr_db=float(psnr_db)) for step, psnr_db in state["looks"]]


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
