"""How a block is built: in words, and exactly."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def described(module: nn.Module) -> str:
    """In words: the name of its class, kernels of layers, or the parts of a sequence, e.g. ``Conv2d 2x2``.

    Operators ask for this, so that it tells apart what they cannot take for one another.
    """
    if type(module) is nn.Sequential:
        parts = [described(part) for part in module]
        counted = [f"{parts.count(part)} x {part}" if parts.count(part) > 1 else part for part in dict.fromkeys(parts)]
        return f"Sequential({', '.join(counted)})"
    if isinstance(module, nn.Conv2d):
        strided = module.stride not in (module.kernel_size, (1, 1))
        kernel = "x".join(map(str, module.kernel_size)) + (f"/{module.stride[0]}" if strided else "")
        words = [type(module).__name__, kernel]
        words += [f"in {module.groups} groups"] if module.groups != 1 else []
        words += ["without bias"] if module.bias is None else []
        return " ".join(words)
    return type(module).__name__


def construction(module: nn.Module, macs: int, channels: Sequence[int]) -> str:
    """Equal for blocks that compute the same but for their weights; macs and channels: of the block, at its place."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]
    settings = [
        (path, type(part).__qualname__, name, value)
        for path, part in module.named_modules()
        for name, value in sorted(vars(part).items())
        if name != "training" and isinstance(value, bool | int | float | str | tuple)
    ]
    return repr((macs, tuple(channels), shapes, settings, repr(module)))
