"""Weights on disk: reading state dicts that others wrote, writing our own.

A file is somebody else's data: nothing in it is executed (``weights_only``), and whatever is wrong with it
becomes one :class:`~netgraft.errors.CheckpointError` that names the file.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from netgraft.errors import CheckpointError
from netgraft.files import write_atomically

WRAPPERS = ("params_ema", "params", "state_dict")
"""Keys under which training codes store the state dict; the first that is there counts."""

LARGEST_HALF = torch.finfo(torch.float16).max


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a ``.safetensors`` or PyTorch file, on the CPU, as finite float32 tensors.

    PyTorch files may hold it bare or under one of :data:`WRAPPERS`, with or without DataParallel's prefix.

    Raises:
        CheckpointError: the file is missing, a folder, damaged, holds more than tensors, or NaN or infinity.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name the .pth or .safetensors file in it")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    weights = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; its training diverged")
    return weights


def read_metadata(path: Path) -> dict[str, str]:
    """The text entries in the header of a ``.safetensors`` file; empty for PyTorch files."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {_first_line(error)}") from None


def save_weights(
    module: nn.Module, path: Path, *, half: bool = True, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the state dict of ``module`` as ``.safetensors``, all of the file or nothing of it.

    half: floating-point tensors as float16, half the size. metadata: text entries for the header.

    Raises:
        CheckpointError: another suffix, a file that cannot be written, or a weight that overflows float16.
    """
    path = Path(path)
    check_target(path)
    tensors = {}
    for name, tensor in module.state_dict().items():
        # A copy of its own for every tensor: the format refuses memory that two names share.
        stored = tensor.detach().to("cpu", copy=True).contiguous()
        if half and stored.is_floating_point():
            if bool((stored.abs() > LARGEST_HALF).any()):
                raise CheckpointError(f"{path}: {name} exceeds {LARGEST_HALF:g}; save with half=False")
            stored = stored.half()
        tensors[name] = stored
    write_atomically(path, safetensors.torch.save(tensors, dict(metadata or {})), CheckpointError)


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of the names and values of all weights and buffers, in hexadecimal."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def check_target(path: Path) -> None:
    """Refuse a path that weights are not written to, before any work is done for them."""
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: weights are written as .safetensors; change the suffix")


def check_fit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], owner: str, source: str) -> None:
    """Refuse weights of other names or shapes than those that ``owner``, in words, has.

    Raises:
        CheckpointError: they do not fit; the message names the first that do not.
    """
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    if missing or unexpected:
        both = (("missing", missing), ("unexpected", unexpected))
        parts = [f"{kind}: {few(names)}" for kind, names in both if names]
        raise CheckpointError(f"{source}: not the weights of {owner}; {'; '.join(parts)}")
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: {name} is {tuple(weights[name].shape)}, but {owner} has {tuple(tensor.shape)} there"
            )


def few(names: Sequence[str]) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a whole .safetensors file ({_first_line(error)})") from None
    return _checked(path, tensors)


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors, or is no PyTorch file; nothing in it was run, "
            f"save the state dict alone ({_first_line(error)})"
        ) from None
    except Exception as error:
        # Damaged bytes can make the unpickler raise nearly anything; all of it means the same to the user.
        raise CheckpointError(f"{path}: not a whole PyTorch checkpoint ({_first_line(error)})") from None
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
    return _checked(path, content)


def _checked(path: Path, content: object) -> dict[str, Tensor]:
    """``content`` as a state dict of dense floating-point tensors, DataParallel's prefix removed."""
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: no state dict in it, but {_kind(content)}")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: no state dict in it: the entry {name!r} is {_kind(tensor)}")
        if not tensor.is_floating_point() or tensor.is_quantized or tensor.layout != torch.strided:
            raise CheckpointError(f"{path}: {name} holds {tensor.dtype}, not floating-point weights")
    if all(name.startswith("module.") for name in content):
        return {name.removeprefix("module."): tensor for name, tensor in content.items()}
    return dict(content)


def _kind(value: object) -> str:
    if isinstance(value, Mapping) and not value:
        return "an empty table"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0].split(". ")[0]
    return text[:117] + "..." if len(text) > 120 else text or type(error).__name__
