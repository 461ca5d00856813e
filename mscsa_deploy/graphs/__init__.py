"""Reading, checking and rewriting ONNX graphs; knows nothing of torch, and runs no graph."""
