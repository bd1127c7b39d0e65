"""Heat and clock rate of a Linux machine, as far as it tells them, while networks are timed on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HOT_C, COOL_C = 80.0, 70.0
"""At or above the first it rests until it is below the second: a Raspberry Pi slows down from 80 on."""
ODD_C = 125.0
"""What claims to be hotter is no temperature: such sensors are broken, or absent."""
REST_MAX_S = 120.0
"""Longest rest; then it goes on, hot as it is."""
REST_STEP_S = 5.0
SLOWERS = ("cpufreq", "processor", "devfreq")
"""In the names of the kernel's cooling devices that cool by slowing down; others are fans."""


@dataclass(slots=True, kw_only=True)
class Watch:
    """Looks at the machine between rounds, and lets it rest while it is hot.

    on_rest: told the temperature, every few seconds of a rest.
    """

    on_rest: Callable[[float], None] = lambda hot_c: None
    root: Path = Path("/sys")
    sleep: Callable[[float], None] = time.sleep
    hottest_c: float = 0.0
    rested_s: float = 0.0
    throttled: bool = False
    """Whether the kernel slowed the machine down at a time that was looked at."""
    clock_mhz: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Note what is, and rest if that is needed."""
        now_c = self._temperature()
        if now_c >= HOT_C:
            self._rest(now_c)
        self.throttled = self.throttled or self._slowed()
        mhz = [_number(file) / 1e3 for file in self.root.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")]
        if mhz:
            self.clock_mhz.append(max(mhz))

    def summary(self) -> dict[str, float | bool]:
        """What was seen, as plain data."""
        return {
            "hottest_c": self.hottest_c,
            "rested_s": self.rested_s,
            "throttled": self.throttled,
            "slowest_mhz": min(self.clock_mhz, default=0.0),
            "fastest_mhz": max(self.clock_mhz, default=0.0),
        }

    def _rest(self, now_c: float) -> None:
        until = self.rested_s + REST_MAX_S
        while now_c >= COOL_C and self.rested_s < until:
            self.on_rest(now_c)
            self.sleep(REST_STEP_S)
            self.rested_s += REST_STEP_S
            now_c = self._temperature()

    def _temperature(self) -> float:
        """Of the hottest sensor, in degrees Celsius; 0 without any."""
        sensors = [_number(file) / 1e3 for file in self.root.glob("class/thermal/thermal_zone*/temp")]
        now_c = max((value for value in sensors if value < ODD_C), default=0.0)
        self.hottest_c = max(self.hottest_c, now_c)
        return now_c

    def _slowed(self) -> bool:
        for device in self.root.glob("class/thermal/cooling_device*"):
            kind = _text(device / "type").lower()
            if any(word in kind for word in SLOWERS) and _number(device / "cur_state") > 0:
                return True
        return False


def _text(file: Path) -> str:
    """A sensor may be listed and yet refuse to be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _number(file: Path) -> float:
    try:
        return float(_text(file))
    except ValueError:
        return 0.0
