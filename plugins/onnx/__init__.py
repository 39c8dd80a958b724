"""`pairmill export --format onnx`: two graphs, for onnxruntime and others."""
