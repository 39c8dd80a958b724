"""The losses of training, and the gradient of a batch that memory does not hold."""
