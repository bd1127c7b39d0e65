"""Compiles one ONNX file for the NPU of a Snapdragon: a program of its own, which imports nothing of netgraft.

    python -P qnn_worker.py SOURCE TARGET SOC_MODEL HTP_ARCH

SOURCE is an ONNX file; TARGET becomes the ONNX file around the compiled parts, with the context binary beside it.
Qualcomm's compiler registers itself in the whole process, prints as it likes, and may take its process down with it.
"""

from __future__ import annotations

import sys
from typing import Any

import onnxruntime
import onnxruntime_qnn

# Neither says in types what it exports.
ort: Any = onnxruntime
qnn: Any = onnxruntime_qnn


def compile_file(source: str, target: str, soc_model: str, htp_arch: str) -> None:
    """Write the compiled file; what the NPU does not take stays in it as it was."""
    name = qnn.get_ep_name()
    ort.register_execution_provider_library(name, qnn.get_library_path())
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("ep.context_enable", "1")
    options.add_session_config_entry("ep.context_file_path", target)
    options.add_session_config_entry("ep.context_embed_mode", "0")
    # A plugin is found through its devices; naming it as a provider is passed over in silence.
    options.add_provider_for_devices(
        [device for device in ort.get_ep_devices() if device.ep_name == name],
        {
            "backend_path": qnn.get_qnn_htp_path(),
            "soc_model": soc_model,
            "htp_arch": htp_arch,
            "htp_graph_finalization_optimization_mode": "3",
        },
    )
    ort.InferenceSession(source, options)


if __name__ == "__main__":
    compile_file(*sys.argv[1:])
