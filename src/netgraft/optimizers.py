"""Optimizers of a training: AdamW as NAFNet was published with, or Muon for its matrices.

Muon (Jordan et al., 2024) makes the momentum of a weight matrix orthogonal before it is applied, so that all of its
directions learn at one rate. Most of a NAFNet's weights are matrices: convolutions of 1x1, and of 2x2 and 3x3 across
channels. What is none (depthwise convolutions, norms, biases, scales) stays with AdamW.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

OptimizerName = Literal["adamw", "muon"]
BETAS = (0.9, 0.9)
MOMENTUM = 0.95
LEAST_SIDE = 16
"""Rows and columns from which a convolution's weights count as a matrix."""


class Stepper(Protocol):
    """What a training needs of an optimizer."""

    def set_learning_rate(self, rate: float) -> None: ...
    def step(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def make_optimizer(name: OptimizerName, parameters: Sequence[nn.Parameter], rate: float) -> Stepper:
    """The optimizer of this name for ``parameters``, which it changes in place."""
    return Muon(parameters, rate) if name == "muon" else AdamW(parameters, rate)


class AdamW:
    """AdamW without weight decay (Loshchilov and Hutter, 2019)."""

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float) -> None:
        self._adamw = torch.optim.AdamW(parameters, rate, betas=BETAS, weight_decay=0, fused=True)

    def set_learning_rate(self, rate: float) -> None:
        _set_rate(self._adamw, rate)

    def step(self) -> None:
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        return self._adamw.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._adamw.load_state_dict(state)


class Muon:
    """Muon for the matrices among ``parameters``, :class:`AdamW` for the others, at one learning rate."""

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float) -> None:
        self._convolutions = [p for p in parameters if _is_matrix(p)]
        # torch's Muon takes matrices only: each convolution is shown to it as one.
        self._matrices = [nn.Parameter(_matrix(p.detach()).clone()) for p in self._convolutions]
        self._others = AdamW([p for p in parameters if not _is_matrix(p)], rate)
        self._muon = (
            torch.optim.Muon(self._matrices, rate, weight_decay=0, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
            if self._matrices
            else None
        )

    def set_learning_rate(self, rate: float) -> None:
        self._others.set_learning_rate(rate)
        if self._muon:
            _set_rate(self._muon, rate)

    @torch.no_grad()
    def step(self) -> None:
        self._others.step()
        if self._muon is None:
            return
        for matrix, convolution in zip(self._matrices, self._convolutions, strict=True):
            matrix.copy_(_matrix(convolution))
            matrix.grad = None if convolution.grad is None else _matrix(convolution.grad)
        self._muon.step()  # type: ignore[no-untyped-call]
        for matrix, convolution in zip(self._matrices, self._convolutions, strict=True):
            _matrix_view(convolution).copy_(matrix.view(_matrix_view(convolution).shape))

    def state_dict(self) -> dict[str, Any]:
        return {"others": self._others.state_dict(), "muon": self._muon.state_dict() if self._muon else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._others.load_state_dict(state["others"])
        if self._muon:
            self._muon.load_state_dict(state["muon"])


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim == 4 and min(parameter.shape[0], parameter[0].numel()) >= LEAST_SIDE


def _matrix_view(weight: Tensor) -> Tensor:
    """(out, h, w, in) of (out, in, h, w): in this order a channels_last weight is contiguous."""
    return weight.permute(0, 2, 3, 1)


def _matrix(weight: Tensor) -> Tensor:
    """(out, h * w * in) of (out, in, h, w)."""
    return _matrix_view(weight).reshape(weight.shape[0], -1)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
