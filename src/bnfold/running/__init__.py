"""onnxruntime, and the inputs that it is fed."""
