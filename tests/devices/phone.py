"""A phone for the tests: an ``adb`` on PATH over a folder, with a benchmark that prints as LiteRT's does."""

import json
import os
import sys
from pathlib import Path

from far_side import write_script

SERIAL = "R5CX1"
# adb runs the command on the phone by its shell; what the phone calls /data/local/tmp lies in the folder.
ADB = """
import json, os, pathlib, shutil, subprocess, sys, time
folder = pathlib.Path({folder!r})
phones = json.loads((folder / "phones").read_text())
arguments = sys.argv[1:]
if arguments == ["devices"]:
    print("* daemon started successfully\\nList of devices attached")
    print("".join(f"{{serial}}\\t{{state}}\\n" for serial, state in phones.items()))
    sys.exit()
flag, serial, verb, *rest = arguments
state = phones.get(serial)
if flag != "-s" or state != "device":
    sys.exit(f"adb: device '{{serial}}' not found" if state is None else f"adb: device {{state}}")
local = lambda text: text.replace("/data/local/tmp", str(folder / "tmp"))
if verb == "push":
    shutil.copy(rest[0], local(rest[1]))
    with open(folder / "pushed", "a") as log:
        log.write(rest[1] + "\\n")
else:
    path = str(folder / "bin") + ":" + os.environ["PATH"]
    done = subprocess.run(["sh", "-c", local(rest[0])], env={{**os.environ, "PATH": path}})
    if (folder / "unplug").exists():
        os.unlink(folder / "unplug")
        (folder / "phones").write_text("{{}}")
        sys.exit("adb: device '" + serial + "' not found")
    sys.exit(done.returncode)
"""
BENCHMARK = """
import json, os, pathlib, sys, time
folder = pathlib.Path({folder!r})
options = dict(word[2:].split("=") for word in sys.argv[1:])
with open(folder / "calls", "a") as log:
    log.write(json.dumps(options) + "\\n")
fault = json.loads((folder / "fault").read_text()) if (folder / "fault").exists() else {{}}
if fault and fault.get("graph", options["graph"]) == options["graph"]:
    fault["times"] -= 1
    (folder / "fault").write_text(json.dumps(fault)) if fault["times"] > 0 else os.unlink(folder / "fault")
    if fault["what"] == "hang":
        time.sleep(600)
    if fault["what"] == "unplug":
        (folder / "unplug").touch()
    if fault["what"] == "throttle":
        (folder / "thermal").write_text(json.dumps([2, 1, 0]))
    if fault["what"] == "fail":
        print("ERROR: failed to load the model", file=sys.stderr)
        sys.exit(1)
    if "print" in fault:
        print(fault["print"])
        sys.exit()
size = os.path.getsize(options["graph"])
us = size / 10
print("INFO: STARTING!")
print("INFO: Graph: [%s]" % options["graph"])
print("INFO: Initialized session in 1.2ms.")
if options.get("use_gpu") == "true":
    print("INFO: Explicitly applied GPU delegate, and the model graph will be partially executed by the delegate"
          " w/ 2 delegate kernels.")
print("INFO: count=1 curr=999999 p5=999999 median=999999 p95=999999")
print("INFO: count=%s first=9 curr=9 min=9 max=9 avg=%g std=1 p5=9 median=9 p95=9" % (options["num_runs"], us))
print("INFO: Inference timings in us: Init: 1200, First inference: 9999, Warmup (avg): 9999, Inference (avg): %g" % us)
print("INFO: Memory footprint delta from the start of the tool (MB): init=1 overall=2")
"""
GETPROP = 'case "$1" in ro.product.model) echo SM-S928B;; ro.soc.model) echo SM8650;; *) echo 14;; esac'
# As Android 12 prints it.
DUMPSYS = """
import json, pathlib
file = pathlib.Path({folder!r}) / "thermal"
status = json.loads(file.read_text()) if file.exists() else [0]
file.write_text(json.dumps(status[1:] or status))
print("IsStatusOverride: false\\nThermalStatusListeners:\\n\\tcallbacks: 4\\nThermal Status: %d" % status[0])
print("Cached temperatures:\\n\\tTemperature{{mValue=25.6, mType=0, mName=AP, mStatus=0}}\\nHAL Ready: true")
"""


class FakePhone:
    """What an attached phone does, and can be told to do wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tmp").mkdir()
        self.attach({SERIAL: "device"})
        for place, name, code in (
            (folder / "path", "adb", ADB),
            (folder / "tmp", "benchmark_model", BENCHMARK),
            (folder / "bin", "dumpsys", DUMPSYS),
        ):
            program = folder / f"{name}.py"
            program.write_text(code.format(folder=str(folder)))
            write_script(place / name, f'exec {sys.executable} -S {program} "$@"')
        write_script(folder / "bin" / "getprop", GETPROP)
        self.path = f"{folder / 'path'}:{os.environ['PATH']}"

    def attach(self, phones: dict[str, str]) -> None:
        """The phones that adb sees from now on, with their states."""
        (self.folder / "phones").write_text(json.dumps(phones))

    def put(self, name: str, value: object) -> None:
        """How the phone is from now on: ``fault`` of its benchmark, ``thermal``, the next statuses."""
        (self.folder / name).write_text(json.dumps(value))

    def lines(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []
