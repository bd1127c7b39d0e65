"""ExecuTorch programs that Core ML computes: made here, run on Apple's systems only."""

from __future__ import annotations

from torch import Tensor, nn

from netgraft.devices.apple.coreml import import_coremltools
from netgraft.devices.compiler import Compiled
from netgraft.devices.device import Unsupported
from netgraft.devices.executorch.lower import coreml_program, program_parts
from netgraft.errors import ExportError


class ExecuTorchCoreMl:
    """ExecuTorch's backend for Core ML, in half precision.

    Raises:
        DeviceError: Core ML's converter is not installed.
    """

    target, precision = "ExecuTorch with Core ML", "fp16"

    def __init__(self) -> None:
        import_coremltools()

    def compile(
        self, module: nn.Module, example: Tensor, calibration: Tensor | None = None, stem: str = "network"
    ) -> Compiled | Unsupported:
        """See :class:`Compiler`.

        Raises:
            DeviceError: ExecuTorch is not installed.
        """
        try:
            content = coreml_program(module, example)
        except ExportError as error:
            return Unsupported(str(error))
        delegates, left = program_parts(content)
        if not delegates:
            return Unsupported("Core ML takes no operator of the network")
        taken = f"all but {', '.join(left)}" if left else "all of it"
        note = f"Core ML takes {taken}; compare its outputs on Apple's system, Core ML is not here"
        return Compiled(files={f"{stem}.pte": content}, note=note)
