"""Networks of other architectures, which the library spandrel recognizes by their weights and builds.

With the extra ``compare``: KBNet, FFTformer, Restormer, MPRNet and many more. They are opened as they are, for
comparisons; only a NAFNet can be refitted from a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from netgraft.errors import CheckpointError, first_line


class Foreign(nn.Module):
    """A network of another architecture: (b, 3, h, w), RGB in [0, 1] -> the same."""

    def __init__(self, network: nn.Module, multiple: int = 1, least: int = 0, *, square: bool = False) -> None:
        super().__init__()
        self.network = network
        self.size_multiple = multiple
        self.least = least
        self.square = square

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        sides = [max(side, self.least) for side in (h, w)]
        sides = [side + -side % self.size_multiple for side in sides]
        if self.square:
            sides = [max(sides)] * 2
        # Replicated: reflection cannot continue an image by more than itself.
        y = self.network(functional.pad(x, (0, sides[1] - w, 0, sides[0] - h), mode="replicate"))
        # Networks with deep supervision give every stage's image, the last one first.
        last: Tensor = y[0] if isinstance(y, list | tuple) else y
        return last[..., :h, :w]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignNetwork:
    """One that was recognized."""

    module: Foreign
    architecture: str
    """Its name, as spandrel gives it."""


def open_foreign(path: Path) -> ForeignNetwork | None:
    """The network of a checkpoint; None if spandrel is not installed.

    Raises:
        CheckpointError: no architecture fits, or it is not one that maps an RGB image to another of its size.
    """
    try:
        import spandrel
    except ImportError:
        return None
    _add_extra_architectures(spandrel)
    try:
        found = spandrel.ModelLoader(device="cpu").load_from_file(str(path))
    # It raises what the architectures' own code raises.
    except Exception as error:
        raise CheckpointError(f"{path}: neither a NAFNet, nor does spandrel know it: {first_line(error)}") from error
    scale, channels = int(getattr(found, "scale", 0)), (found.input_channels, found.output_channels)
    name = str(found.architecture.name)
    if scale != 1 or channels != (3, 3):
        raise CheckpointError(
            f"{path}: {name} with {channels[0]} channels in, {channels[1]} out and scale {scale} is no restoration of "
            "RGB images: 3, 3 and 1 are needed"
        )
    needs = found.size_requirements
    multiple, least = max(1, int(needs.multiple_of or 1)), int(needs.minimum or 0)
    module = Foreign(found.model, multiple, least, square=bool(needs.square))
    return ForeignNetwork(module=module.eval(), architecture=name)


def _add_extra_architectures(spandrel: Any) -> None:
    """Those whose licenses spandrel keeps apart, where they are installed."""
    try:
        import spandrel_extra_arches
    except ImportError:
        return
    spandrel_extra_arches.install(ignore_duplicates=True)
