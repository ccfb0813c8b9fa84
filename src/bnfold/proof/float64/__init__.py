"""The float64 evaluation: onnx's reference evaluator, with operators of our own."""
