"""Compiles one ONNX file for a Rockchip NPU and runs it in the simulator: a program of its own, in an interpreter that
has rknn-toolkit2 and need have nothing of netgraft.

    python -P rknn_worker.py FOLDER CHIP PRECISION

FOLDER holds source.onnx, x.npy (1, c, h, w) and, for int8, calibration.npy (n, c, h, w); network.rknn and y.npy are put
there. The toolkit prints as it likes, and tells of failures by a number.
"""

import sys
from pathlib import Path

import numpy as np
from rknn.api import RKNN


def compile_file(folder: Path, chip: str, precision: str) -> None:
    """Make the file for the NPU, and what its simulator computes."""
    work = RKNN(verbose=False)
    _done("config", work.config(target_platform=chip))
    _done("load_onnx", work.load_onnx(str(folder / "source.onnx")))
    _done("build", work.build(do_quantization=precision == "int8", dataset=_dataset(folder, precision)))
    _done("export_rknn", work.export_rknn(str(folder / "network.rknn")))
    # Without a target it is the simulator.
    _done("init_runtime", work.init_runtime())
    outputs = work.inference([np.load(folder / "x.npy")], data_format=["nchw"])
    np.save(folder / "y.npy", outputs[0])
    work.release()


def _dataset(folder: Path, precision: str) -> "str | None":
    """A list of files with one calibration input each."""
    if precision != "int8":
        return None
    paths = []
    for number, one in enumerate(np.load(folder / "calibration.npy")):
        paths.append(folder / f"calibration_{number}.npy")
        np.save(paths[-1], one[None])
    listed = folder / "calibration.txt"
    listed.write_text("\n".join(map(str, paths)))
    return str(listed)


def _done(step: str, failure: int) -> None:
    if failure != 0:
        raise SystemExit(f"{step} failed with {failure}")


if __name__ == "__main__":
    compile_file(Path(sys.argv[1]).resolve(), *sys.argv[2:])
