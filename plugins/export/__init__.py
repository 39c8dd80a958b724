"""`pairmill export`: a model in the formats of open_clip, transformers and ONNX."""
