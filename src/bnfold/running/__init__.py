"""onnxruntime and its inputs."""
