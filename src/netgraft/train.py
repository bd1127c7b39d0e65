"""Training a restoration network, new or pretrained: the recipe published with NAFNet, made to resume exactly.

AdamW with betas (0.9, 0.9), a cosine schedule down to 1e-7, the PSNR loss, an exponential moving average of the
weights and crops that grow (Chen et al., ECCV 2022; progressive crops after Restormer, Zamir et al., CVPR 2022).
Two additions are for scarce compute. Residual scales and the last convolution start so that the network is the
identity and every block learns from the first step. And while training, each decoder level of a NAFNet also predicts
the clean image at its own resolution (deep supervision, as in Nah et al., CVPR 2017), which gives the deep stages a
gradient that does not pass through all the shallow ones. The heads are thrown away afterwards.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from netgraft.data.crops import CropStage
from netgraft.errors import ConfigError
from netgraft.nets.losses import psnr_loss
from netgraft.nets.nafnet import NafNet, start_residuals
from netgraft.optimizers import OptimizerName, make_optimizer

Precision = Literal["auto", "fp32", "bf16"]
FINAL_LEARNING_RATE = 1e-7


class TrainConfig(BaseModel):
    """The recipe of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crops: tuple[CropStage, ...] = (
        CropStage(steps=11_000, size=64, batch=16),
        CropStage(steps=5_500, size=96, batch=8),
        CropStage(steps=1_500, size=128, batch=6),
    )
    """Crops grow from stage to stage; the schedule spans all of them."""
    optimizer: OptimizerName = "adamw"
    """``muon`` learns more a step, and takes a fifth longer for it."""
    learning_rate: float = Field(1.5e-3, gt=0)
    """Peak of the cosine schedule."""
    warmup: int = Field(300, ge=0)
    """Steps of linear warm-up."""
    clip_norm: float = Field(0.1, gt=0)
    """Largest norm of the gradient."""
    average: float = Field(0.999, ge=0, lt=1)
    """Decay of the moving average of the weights."""
    start_residual: float = Field(0.2, ge=0)
    """What the blocks' beta and gamma start at."""
    deep_supervision: float = Field(0.4, ge=0)
    """Weight of the losses at the lower resolutions; 0 turns them off."""
    precision: Precision = "auto"
    """``auto``: bf16 where the processor has instructions for it."""
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return sum(stage.steps for stage in self.crops)


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine from ``peak`` to 1e-7."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return ramp * (FINAL_LEARNING_RATE + (peak - FINAL_LEARNING_RATE) * cosine)


def autocast(precision: Precision) -> torch.autocast:
    """The arithmetic of a forward pass; the weights stay in float32 whatever it is."""
    fast = precision == "bf16" or (precision == "auto" and torch.cpu._is_avx512_bf16_supported())
    return torch.autocast("cpu", torch.bfloat16, enabled=fast)


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, step: int, decay: float) -> None:
    """Move the weights of ``average`` towards those of ``module``, in place; faster in the first steps.

    Buffers, such as the running statistics of an operator of one's own, are averages already: they are copied.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), weight)
    for mine, theirs in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)


def new_network(network: NafNet, config: TrainConfig) -> NafNet:
    """Start the weights of a new network as the recipe wants them, in place; returns it."""
    start_residuals(network, config.start_residual)
    nn.init.zeros_(network.ending.weight)
    assert network.ending.bias is not None
    nn.init.zeros_(network.ending.bias)
    return network


class _LevelHeads(nn.Module):
    """Predicts the residual to the clean image at the resolution of every decoder of a NAFNet but the last; of another
    network, whose levels are not known, nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.scales: list[int] = []
        self.heads = nn.ModuleList()
        if isinstance(network, NafNet):
            levels = len(network.decoders)
            width, channels = network.shape.width, network.shape.image_channels
            self.scales = [1 << (levels - 1 - level) for level in range(levels - 1)]
            self.heads.extend(nn.Conv2d(width * scale, channels, 3, padding=1) for scale in self.scales)
        for head in self.heads:
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def loss(self, features: Mapping[int, Tensor], degraded: Tensor, clean: Tensor) -> Tensor:
        total = degraded.new_zeros(())
        for level, (scale, head) in enumerate(zip(self.scales, self.heads, strict=True)):
            coarse = head(features[level]).float() + F.avg_pool2d(degraded, scale)
            total = total + psnr_loss(coarse, F.avg_pool2d(clean, scale))
        return total


class Training:
    """A training in progress, whose state can be saved and continued exactly. ``network`` is trained in place.

    Raises:
        ConfigError: deep supervision, and crops that do not divide evenly down to the lowest resolution.
    """

    def __init__(self, network: nn.Module, config: TrainConfig) -> None:
        multiple = network.size_multiple if isinstance(network, NafNet) else 1
        uneven = [stage.size for stage in config.crops if stage.size % multiple]
        if config.deep_supervision and uneven:
            raise ConfigError(
                f"crops of {uneven[0]} pixels: deep supervision of this network needs multiples of {multiple}; "
                "change the size, or set deep_supervision to 0"
            )
        self.config = config
        self.network = network.requires_grad_(True).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.heads = _LevelHeads(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [*network.parameters(), *self.heads.parameters()]
        self.optimizer = make_optimizer(config.optimizer, self.parameters, config.learning_rate)
        self.step = 0
        self.gain_db = math.nan
        """PSNR gained over the degraded crops, averaged over about the last hundred steps."""

    def run(
        self, batches: Iterable[tuple[Tensor, Tensor]], on_step: Callable[[Training], None] = lambda _: None
    ) -> None:
        """Train on batches (degraded, clean) of (b, 3, h, w); they start at step :attr:`step`."""
        features: dict[int, Tensor] = {}
        decoders = self.network.decoders if isinstance(self.network, NafNet) else ()
        hooks = [
            decoder.register_forward_hook(lambda _m, _x, y, level=level: features.__setitem__(level, y))
            for level, decoder in enumerate(decoders)
        ]
        try:
            for degraded, clean in batches:
                self._learn(degraded.to(memory_format=torch.channels_last), clean, features)
                on_step(self)
        finally:
            for hook in hooks:
                hook.remove()

    def _learn(self, degraded: Tensor, clean: Tensor, features: Mapping[int, Tensor]) -> None:
        config = self.config
        self.optimizer.set_learning_rate(learning_rate(self.step, config.steps, config.learning_rate, config.warmup))
        with autocast(config.precision):
            restored = self.network(degraded)
            coarse = self.heads.loss(features, degraded, clean) if config.deep_supervision else torch.zeros(())
        fine = psnr_loss(restored.float(), clean)
        for parameter in self.parameters:
            parameter.grad = None
        (fine + config.deep_supervision * coarse).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
        self.optimizer.step()
        update_average(self.average, self.network, self.step, config.average)
        self.step += 1
        gain = float(psnr_loss(degraded, clean) - fine.detach())
        self.gain_db = gain if math.isnan(self.gain_db) else 0.99 * self.gain_db + 0.01 * gain

    def state(self) -> dict[str, Any]:
        """Everything needed to continue: plain containers of the live tensors, and numbers; save it before going on."""
        return {
            "step": self.step,
            "module": self.network.state_dict(),
            "ema": self.average.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state, in place."""
        self.network.load_state_dict(state["module"])
        self.average.load_state_dict(state["ema"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
