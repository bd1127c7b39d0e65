"""What a benchmark ran on, for the JSON line that it ends with."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata

from netgraft.devices.device import host_hardware


def machine(*packages: str) -> dict[str, str | int | None]:
    """Date, processor, Python, torch and the versions of these distributions."""
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": host_hardware(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", *packages)},
    }
