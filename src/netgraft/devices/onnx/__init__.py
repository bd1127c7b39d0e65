"""Networks as ONNX graphs: built, quantized and run by ONNX Runtime."""
