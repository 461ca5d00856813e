"""From a model in PyTorch to a checked ONNX file: recipes, tracing, simplification, FP16."""
