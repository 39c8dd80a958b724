"""The curves of a training in TensorBoard and in Weights & Biases, and a trace of its steps."""
