"""End-to-end fine-tuning of an assembled student: PSNR and Fourier loss against the clean image, and the teacher's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from netgraft.compute import CPU, moved
from netgraft.nets.losses import fourier_loss, psnr_loss
from netgraft.train import Precision, autocast, learning_rate, update_average


class FinetuneConfig(BaseModel):
    """How the student is fine-tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(400, ge=0)
    """Optimizer steps; 0 leaves the student as it was assembled."""
    batch: int = Field(8, ge=1)
    """Crops a step."""
    crop: int = Field(96, ge=16)
    """Side of the crops, in pixels."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak of the cosine schedule."""
    distillation: float = Field(0.5, ge=0)
    """Weight of the PSNR loss against the teacher's output."""
    fourier: float = Field(0.0, ge=0)
    """Weight of the loss between the Fourier transforms of the restored and the clean image."""
    average: float = Field(0.99, ge=0, lt=1)
    """Decay of the moving average of the weights."""
    precision: Precision = "auto"
    quantized: bool = False
    """Round weights and activations to 8 bits meanwhile, as devices of 8 bits will, so that the network learns to live
    with it."""


class Finetuning:
    """A fine-tuning in progress; the result is :attr:`average`. Neither network that is handed in changes.

    compute: where PyTorch computes; what it makes stays there.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, config: FinetuneConfig, compute: str = CPU) -> None:
        self.config = config
        self.compute = compute
        self.teacher = moved(teacher, compute)
        self.student = copy.deepcopy(student).train().to(compute, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.student.requires_grad_(True)
        _keep_statistics(self.student, teacher)
        self.average = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), config.learning_rate, betas=(0.9, 0.9), weight_decay=0, fused=True
        )
        self.step = 0
        self.losses: list[float] = []
        """PSNR loss of every step; those that are not finite taught nothing."""

    def run(
        self, batches: Iterable[tuple[Tensor, Tensor]], on_step: Callable[[Finetuning], None] = lambda _: None
    ) -> None:
        """Train on batches (degraded, clean) of (b, 3, h, w); they start at step :attr:`step`."""
        for degraded, clean in batches:
            if self.step >= self.config.steps:
                break
            self._learn(degraded.to(self.compute, memory_format=torch.channels_last), clean.to(self.compute))
            on_step(self)

    def _learn(self, degraded: Tensor, clean: Tensor) -> None:
        config = self.config
        rate = learning_rate(self.step, config.steps, config.learning_rate, warmup=20)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with autocast(config.precision):
            restored = self.student(degraded).float()
        loss = psnr_loss(restored, clean)
        self.step += 1
        self.losses.append(float(loss.detach()))
        if not math.isfinite(self.losses[-1]):
            # A student with many frozen norms may diverge on a crop unlike those that it was calibrated on: one
            # such step would leave nothing of its weights.
            return
        if config.fourier:
            loss = loss + config.fourier * fourier_loss(restored, clean)
        if config.distillation:
            with torch.no_grad(), autocast(config.precision):
                taught = self.teacher(degraded).float()
            loss = loss + config.distillation * psnr_loss(restored, taught)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), 0.1)
        self.optimizer.step()
        update_average(self.average, self.student, self.step - 1, config.average)

    def state(self) -> dict[str, Any]:
        """Everything needed to continue: plain containers of the live tensors, and numbers; save it before going on."""
        return {
            "step": self.step,
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state, in place."""
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = list(state["losses"])
        self.step = int(state["step"])


def _keep_statistics(student: nn.Module, teacher: nn.Module) -> None:
    """Let the teacher's batch norms keep the statistics that they were trained with, which small batches would spoil;
    those of operators learn theirs."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    of_teacher = {path for path, part in teacher.named_modules() if isinstance(part, norms)}
    for path, part in student.named_modules():
        if isinstance(part, norms) and path in of_teacher:
            part.eval()
