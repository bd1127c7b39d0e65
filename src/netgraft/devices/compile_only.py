"""The devices that are not here and give no latency: what makes their files is here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from netgraft.devices.apple.coreml import INSTALL as COREML
from netgraft.devices.apple.coreml import PRECISIONS, SYSTEM, CoreMlCompiler
from netgraft.devices.compiler import Compiler
from netgraft.devices.device import Device
from netgraft.devices.executorch.coreml import ExecuTorchCoreMl
from netgraft.devices.executorch.lower import INSTALL as EXECUTORCH
from netgraft.devices.kind import DeviceKind, nothing_lacking
from netgraft.devices.qualcomm.phones import PHONES
from netgraft.devices.qualcomm.qnn import INSTALL as QNN
from netgraft.devices.qualcomm.qnn import QnnCompiler
from netgraft.devices.rockchip.rknn import CHIPS, RknnCompiler, lacking_toolkit
from netgraft.devices.rockchip.rknn import INSTALL as RKNN
from netgraft.errors import ConfigError


def suffix(precision: str) -> str:
    """Networks of single precision compute in half precision on these NPUs: that goes without saying."""
    return "" if precision == "fp16" else f":{precision}"


def _compile_only(
    name: str,
    compiler: Callable[[], Compiler],
    install: str,
    note: str,
    *,
    modules: tuple[str, ...] = (),
    lacking: Callable[[], str] = nothing_lacking,
    timed_by: str = "",
    on_request: bool = False,
) -> DeviceKind:
    def refuse(threads: int) -> Device:
        raise ConfigError(kind.no_latency)

    kind = DeviceKind(
        name=name,
        open=refuse,
        modules=modules,
        install=install,
        note=note,
        lacking=lacking,
        compiler=compiler,
        timed_by=timed_by,
        on_request=on_request,
    )
    return kind


def _qnn(phone: str, precision: str) -> DeviceKind:
    return _compile_only(
        f"qnn:{phone}{suffix(precision)}",
        partial(QnnCompiler, phone, precision),
        QNN,
        f"{PHONES[phone].chip}, {precision}: compiles and tells what falls back; gives no latency",
        modules=("onnxruntime_qnn",),
        timed_by=f"aihub:{phone}{suffix(precision)}",
        on_request=True,
    )


def _coreml(precision: str) -> DeviceKind:
    return _compile_only(
        f"coreml{suffix(precision)}",
        partial(CoreMlCompiler, precision),
        COREML,
        f"Core ML package for {SYSTEM} and later, {precision}: compiles; gives no latency",
        modules=("coremltools",),
    )


def _rknn(chip: str, precision: str) -> DeviceKind:
    return _compile_only(
        f"rknn:{chip}{suffix(precision)}",
        partial(RknnCompiler, chip, precision),
        RKNN,
        f"Rockchip {chip.upper()}, {precision}: compiles and runs in its simulator; gives no latency",
        lacking=lacking_toolkit,
        on_request=True,
    )


COMPILE_ONLY: tuple[DeviceKind, ...] = (
    *(_qnn(phone, precision) for phone in PHONES for precision in ("fp16", "int8")),
    *(_coreml(precision) for precision in PRECISIONS),
    _compile_only(
        "executorch:coreml",
        ExecuTorchCoreMl,
        EXECUTORCH,
        "ExecuTorch with Core ML, fp16: compiles and tells what falls back; gives no latency",
        modules=("executorch", "coremltools"),
    ),
    *(_rknn(chip, precision) for chip in CHIPS for precision in ("fp16", "int8")),
)
