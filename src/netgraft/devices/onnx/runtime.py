"""ONNX Runtime: the device that is always there, and the reference for what an exported network computes."""

from __future__ import annotations

import dataclasses

from netgraft.devices.device import Array, DeviceDescription, Runnable
from netgraft.devices.onnx.device import OnnxDevice, check_ends
from netgraft.devices.onnx.session import CPU, OnnxRuntimeRunnable, import_runtime, lacking_provider, profile
from netgraft.errors import DeviceError


class OnnxRuntimeDevice(OnnxDevice):
    """ONNX Runtime in single precision, with all its graph optimizations, one network at a time.

    threads: threads that one operator may use. provider: who runs the network, by ONNX Runtime's name for it; what
    it cannot run falls back to the CPU. ``fast_forms`` exports layer norms and gates in the forms that
    this runtime runs fastest (:mod:`netgraft.devices.onnx.forms`); off, they stay what the exporter makes of
    them.

    Raises:
        DeviceError: the runtime is not installed, has no such provider, or ``threads`` is not positive.
    """

    def __init__(self, threads: int = 1, provider: str = CPU, *, fast_forms: bool = True) -> None:
        super().__init__(threads, fast_forms=fast_forms)
        lack = lacking_provider(provider)
        if lack:
            raise DeviceError(lack)
        self.provider = provider
        # Those of GPUs and NPUs may compute in half precision without being asked, Core ML's for one.
        self.fp16_safe = provider not in (CPU, "XnnpackExecutionProvider")

    @property
    def description(self) -> DeviceDescription:
        short = self.provider.removesuffix("ExecutionProvider")
        described = self._described(f"onnxruntime {short}", import_runtime().__version__)
        if self.provider == CPU:
            return described
        # ONNX Runtime does not tell what a provider runs on: the machine stands for it.
        return dataclasses.replace(described, hardware=f"{short} on {described.hardware}")

    def open(self, content: bytes) -> Runnable:
        runnable = OnnxRuntimeRunnable(content, self.provider, self.threads)
        check_ends(runnable.ends)
        return runnable

    def profile(self, content: bytes, x: Array) -> dict[str, float]:
        """See :class:`OnnxDevice`. For each operator the median over several runs after warm-up."""
        return profile(content, x, self.provider, self.threads)
