"""Arm's compiler for Ethos-U NPUs: what a network will cost there by its own estimate, and what falls back.

The estimate is the compiler's, from a model of the NPU and of the memories around it that Arm's own configuration
file describes; Arm calls the figures internal estimates and no promise of hardware. Operators that the NPU does not
know stay with the host's processor and count as nothing: they are named here, for who wants to charge them.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from netgraft.errors import DeviceError, ExportError

INSTALL = "pip install 'netgraft[ethos-u]'"
TIMEOUT_S = 600
"""A compiler that has not finished by then hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Npu:
    """An NPU with the system around it, by the compiler's names."""

    accelerator: str
    """Family and multiply-accumulates a cycle, e.g. ``ethos-u55-256``."""
    system: str
    """Clock, bandwidths and latencies, a section of ``Arm/vela.ini``."""
    memory: str
    """Where weights and features lie, another section: it dominates the estimate."""


def _npus(family: str, sizes: tuple[int, ...], system: str, memory: str) -> dict[str, Npu]:
    return {
        f"{family}-{size}": Npu(accelerator=f"ethos-{family}-{size}", system=system, memory=memory) for size in sizes
    }


NPUS: Mapping[str, Npu] = MappingProxyType(
    _npus("u55", (32, 64, 128, 256), "Ethos_U55_High_End_Embedded", "Shared_Sram")
    | _npus("u65", (256, 512), "Ethos_U65_High_End", "Dedicated_Sram")
    | _npus("u85", (128, 256, 512, 1024, 2048), "Ethos_U85_SYS_DRAM_High", "Dedicated_Sram_384KB")
)
"""The NPUs in their usual sizes, e.g. ``u85-2048``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What the compiler says of a network."""

    npu_ms: float
    """One run of what the NPU takes over, estimated."""
    clock_hz: float
    """The NPU's clock in the estimate."""
    cycles: Mapping[str, int]
    """Estimated cycles by operator of the network, the most expensive first."""
    fallbacks: tuple[str, ...]
    """Names of the tensors that operators on the host's processor give."""
    content: bytes
    """The TFLite file that the NPU runs, its part of the network one operator."""


def compile_for(npu: Npu, content: bytes) -> Compiled:
    """Compile a TFLite file of 8 bits.

    Raises:
        ExportError: the compiler rejects the network.
        DeviceError: the compiler hangs.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tflite"
        path.write_bytes(content)
        # A process of its own: it ends its process on what it dislikes.
        command = [
            *(sys.executable, "-c", "from ethosu.vela.vela import main; raise SystemExit(main())", str(path)),
            *("--config", "Arm/vela.ini", "--accelerator-config", npu.accelerator, "--system-config", npu.system),
            *("--memory-mode", npu.memory, "--output-dir", folder, "--verbose-performance"),
        ]
        try:
            outcome = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"vela did not finish within {TIMEOUT_S} seconds") from error
        if outcome.returncode != 0:
            raise ExportError(f"vela rejects the network: {_complaint(outcome)}")
        return _read(Path(folder))


def _read(folder: Path) -> Compiled:
    """Raises ExportError where the compiler ended well but left nothing that can be read."""
    try:
        (summary,) = _rows(next(folder.glob("*_summary_*.csv")))
        layers = _rows(next(folder.glob("*_per-layer.csv")))
        cycles: dict[str, int] = {}
        for layer in layers:
            name = layer["Original Operator"]
            cycles[name] = cycles.get(name, 0) + int(float(layer["Op Cycles"]))
        return Compiled(
            npu_ms=1e3 * float(summary["inference_time"]),
            clock_hz=float(summary["core_clock"]),
            cycles=dict(sorted(cycles.items(), key=lambda item: -item[1])),
            fallbacks=tuple(layer["Name"] for layer in layers if layer["Target"] == "CPU"),
            content=next(folder.glob("*_vela.tflite")).read_bytes(),
        )
    except (StopIteration, KeyError, ValueError) as error:
        raise ExportError(f"vela left no estimate that can be read: {type(error).__name__} {error}") from error


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _complaint(outcome: subprocess.CompletedProcess[str]) -> str:
    """The line that tells what was wrong, in one that died without a word its exit code."""
    lines = [line.strip() for line in (outcome.stdout + outcome.stderr).splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower()] or lines
    return told[-1] if told else f"it died with exit code {outcome.returncode}"
