"""How much quality is expected to suffer when a site is changed: six zero-cost metrics, summed over a site.

The definitions are those of zero-cost-nas (Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS",
ICLR 2021), which scores every weight of a convolution or linear layer; a site's saliency is the sum over the
layers inside it. With theta a weight, g its gradient of the loss and H the Hessian:

    grad_norm   ||g||_2 per layer
    snip        |theta * g|                         Lee et al., ICLR 2019
    grasp       -theta * (H g)                      Wang et al., ICLR 2020
    fisher      1/2 * mean_n (sum_hw a * dL/da)^2   Theis et al., 2018; of a channel, at each of its weights
    plain       theta * g, signed
    synflow     |theta * dR/dtheta|, R the sum of the output for an image of ones, all weights |.|
                                                    Tanaka et al., NeurIPS 2020

Norm weights, residual scales and biases take part in the network but do not count. Values of different
metrics do not compare; within one metric, higher means keep.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from netgraft.errors import ConfigError, ImageError, NetgraftError
from netgraft.names import lookup, unknown
from netgraft.nets.losses import psnr_loss
from netgraft.nets.nafnet import LAYER_NORM_EPS, LayerNorm2d

Loss = Callable[[Tensor, Tensor], Tensor]
LayerScores = dict[str, Tensor]
"""Module path of a layer -> the sum over its weights, a scalar."""


class HasPath(Protocol):
    """Anything that names a module, such as a site."""

    @property
    def path(self) -> str:
        """Dotted module path."""
        ...


def saliency(
    module: nn.Module,
    degraded: Tensor,
    clean: Tensor,
    sites: Sequence[HasPath],
    *,
    metric: str,
    loss: str = "mse",
) -> NDArray[np.float64]:
    """The saliency of each site, (len(sites),), higher = keep. ``module`` is left as it is.

    degraded, clean: (b, c, h, w) in [0, 1], one batch; synflow uses their size alone. metric: one of
    :data:`METRICS`. loss: one of :data:`LOSSES`.

    Raises:
        ConfigError: no such metric, loss or site.
        ImageError: the two batches do not fit each other.
        NetgraftError: a value is NaN or infinite.
    """
    score, objective = lookup("saliency metric", metric, METRICS), lookup("loss", loss, LOSSES)
    _check_images(degraded, clean)
    _check_paths(module, [site.path for site in sites])
    with torch.inference_mode(False), torch.enable_grad():
        net = _trainable_copy(module)
        layers = score(net, degraded.detach().clone(), clean.detach().clone(), objective)
        values = np.array([_sum_inside(layers, site.path) for site in sites], dtype=np.float64)
    _check_finite(values, sites, metric)
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """The sites that keep the teacher's block, and why."""

    paths: tuple[str, ...]
    """Module paths, in the order of the sites."""
    rule: str
    """What decided, in words."""


def protect(
    sites: Sequence[HasPath],
    scores: NDArray[np.float64],
    *,
    metric: str,
    top: int = 1,
    named: Collection[str] = (),
) -> Protection:
    """Protect the ``top`` most salient sites, and those that the user named.

    scores: (len(sites),), from the metric of that name. Of equal sites, the earlier one goes first.

    Raises:
        ConfigError: a name is no site, or there are fewer than ``top`` sites.
    """
    paths = [site.path for site in sites]
    for name in named:
        if name not in paths:
            raise ConfigError(unknown("site", name, paths))
    if not 0 <= top <= len(paths):
        raise ConfigError(f"cannot protect the {top} most salient of {len(paths)} sites")
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    chosen = {paths[i] for i in order[:top]} | set(named)
    parts = [f"the {top} most salient by {metric}" if top > 1 else f"the most salient by {metric}"] if top else []
    parts += ["named by the user"] if named else []
    return Protection(
        paths=tuple(path for path in paths if path in chosen),
        rule=" and ".join(parts) or "no site is protected",
    )


def _grad_norm(net: nn.Module, x: Tensor, clean: Tensor, loss: Loss) -> LayerScores:
    weights = _weights(net)
    gradients = _gradients(loss(net(x), clean), weights)
    return {path: gradient.double().norm() for path, gradient in gradients.items()}


def _snip(net: nn.Module, x: Tensor, clean: Tensor, loss: Loss) -> LayerScores:
    weights = _weights(net)
    gradients = _gradients(loss(net(x), clean), weights)
    return {path: (weights[path] * gradient).double().abs().sum() for path, gradient in gradients.items()}


def _plain(net: nn.Module, x: Tensor, clean: Tensor, loss: Loss) -> LayerScores:
    weights = _weights(net)
    gradients = _gradients(loss(net(x), clean), weights)
    return {path: (weights[path] * gradient).double().sum() for path, gradient in gradients.items()}


def _grasp(net: nn.Module, x: Tensor, clean: Tensor, loss: Loss) -> LayerScores:
    weights = _weights(net)
    for part in net.modules():
        if isinstance(part, LayerNorm2d):
            part.register_forward_hook(_norm_once)
    gradients = _gradients(loss(net(x), clean), weights, differentiable=True)
    # The gradient of <stop(g), g> is H g: one more backward pass instead of a Hessian.
    product = torch.stack([(g.detach() * g).sum() for g in gradients.values()]).sum()
    curvature = _gradients(product, weights)
    return {path: -(weights[path] * hg).double().sum() for path, hg in curvature.items()}


def _norm_once(norm: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
    """Forward hook: the same norm with the derivatives of NAFNet's own code."""
    y: Tensor = _NormOnce.apply(inputs[0], norm.weight, norm.bias)  # type: ignore[no-untyped-call]
    return y


class _NormOnce(torch.autograd.Function):
    """Layer norm over channels with the exact first derivative; a second one holds the statistics constant.

    The official NAFNet writes its derivative by hand, over saved tensors that a second differentiation does
    not see through. GraSP of the official network has that in its H g, so ours has it too; on random weights
    the exact product differs by up to 2.5 times at a site. Networks without this norm get the exact product.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        centered = x - x.mean(1, keepdim=True)
        inverse = torch.rsqrt(centered.square().mean(1, keepdim=True) + LAYER_NORM_EPS)
        y = centered * inverse
        ctx.save_for_backward(y, inverse, weight)
        return y * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, inverse, weight = ctx.saved_tensors
        inner = grad * weight.view(1, -1, 1, 1)
        projected = inner - inner.mean(1, keepdim=True) - y * (inner * y).mean(1, keepdim=True)
        return projected * inverse, (grad * y).sum((0, 2, 3)), grad.sum((0, 2, 3))


def _fisher(net: nn.Module, x: Tensor, clean: Tensor, loss: Loss) -> LayerScores:
    with _Outputs(_weights(net)) as seen:
        value = loss(net(x), clean)
    gradients = torch.autograd.grad(value, [output.a for output in seen.outputs], materialize_grads=True)
    scores = {path: torch.zeros((), dtype=torch.float64) for path in _layers(net)}
    for output, gradient in zip(seen.outputs, gradients, strict=True):
        product = (output.a.detach() * gradient).double().movedim(output.channels, -1)
        if output.is_map:
            # One value an image: the sum over its map.
            product = product.sum((1, 2))
        channel = 0.5 * product.square().flatten(0, -2).mean(0)
        scores[output.path] = scores[output.path] + channel.sum() * output.weights_per_channel
    return scores


@dataclass(frozen=True, slots=True)
class _Output:
    """What a layer, or a part of one, gave."""

    path: str
    a: Tensor
    channels: int
    """Its dimension of channels."""
    is_map: bool
    """Whether it is a map of features, (b, c, h, w)."""
    weights_per_channel: int


class _Outputs(TorchFunctionMode):
    """While open, notes the outputs of all layers by their weights, whether a layer is called or a part of it used."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.paths = {id(weight): path for path, weight in weights.items()}
        self.outputs: list[_Output] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in (F.conv2d, F.linear, torch.baddbmm):
            return result
        weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
        # Halves and repetitions of weights are views of them.
        path = self.paths.get(id(weight)) or self.paths.get(id(weight._base))
        if path is None:
            return result
        channels, weights = {F.conv2d: 1, F.linear: -1, torch.baddbmm: 1}[func], weight
        if func is torch.baddbmm:
            weights = weight[0]
        output = _Output(path, result, channels, func is F.conv2d, weights[0].numel())
        self.outputs.append(output)
        # What follows may work in place; it gets its own copy.
        return result.clone()


def _synflow(net: nn.Module, x: Tensor, clean: Tensor, loss: Loss) -> LayerScores:
    net.double()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.abs_()
    weights = _weights(net)
    ones = torch.ones_like(x[:1], dtype=torch.float64)
    gradients = _gradients(net(ones).sum(), weights)
    return {path: (weights[path] * gradient).abs().sum() for path, gradient in gradients.items()}


METRICS: Mapping[str, Callable[[nn.Module, Tensor, Tensor, Loss], LayerScores]] = MappingProxyType(
    {
        "grad_norm": _grad_norm,
        "snip": _snip,
        "grasp": _grasp,
        "fisher": _fisher,
        "plain": _plain,
        "synflow": _synflow,
    }
)
"""Metric name -> its value at every layer of a network, which it may change."""

LOSSES: Mapping[str, Loss] = MappingProxyType({"mse": F.mse_loss, "l1": F.l1_loss, "psnr": psnr_loss})
"""Loss name -> the function of restored and clean images."""


def _trainable_copy(module: nn.Module) -> nn.Module:
    """A float32 copy in eval mode, all of whose parameters take gradients."""
    return copy.deepcopy(module).float().eval().requires_grad_(True)


def _layers(net: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    return {path: part for path, part in net.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}


def _weights(net: nn.Module) -> dict[str, Tensor]:
    return {path: layer.weight for path, layer in _layers(net).items()}


def _gradients(value: Tensor, weights: Mapping[str, Tensor], *, differentiable: bool = False) -> dict[str, Tensor]:
    """The gradient of ``value`` for each weight; zero for one that takes no part."""
    gradients = torch.autograd.grad(value, list(weights.values()), create_graph=differentiable, materialize_grads=True)
    return dict(zip(weights, gradients, strict=True))


def _sum_inside(layers: LayerScores, path: str) -> float:
    """The sum over the layers inside the module at ``path``, itself included."""
    inside = [score for layer, score in layers.items() if layer == path or layer.startswith(f"{path}.")]
    return math.fsum(score.detach().item() for score in inside)


def _check_images(degraded: Tensor, clean: Tensor) -> None:
    if degraded.ndim != 4 or degraded.shape != clean.shape or not degraded.numel():
        raise ImageError(
            f"saliency needs degraded and clean images of one shape (b, c, h, w), "
            f"not {tuple(degraded.shape)} and {tuple(clean.shape)}"
        )
    if not (degraded.is_floating_point() and clean.is_floating_point()):
        raise ImageError(f"saliency needs images in [0, 1], not {degraded.dtype} and {clean.dtype}")


def _check_paths(module: nn.Module, paths: Sequence[str]) -> None:
    modules = dict(module.named_modules())
    for path in paths:
        if not path or path not in modules:
            raise ConfigError(unknown("site", path, [name for name in modules if name]))


def _check_finite(values: NDArray[np.float64], sites: Sequence[HasPath], metric: str) -> None:
    wrong = [site.path for site, value in zip(sites, values, strict=True) if not math.isfinite(value)]
    if wrong:
        raise NetgraftError(
            f"{metric} is not finite at {len(wrong)} of {len(sites)} sites, first {wrong[0]}: "
            f"look for NaN or infinity in the weights and in the images"
        )
