"""ONNX files of policies: for compilers of FPGAs, and for onnxruntime."""
