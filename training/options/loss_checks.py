"""Settings of losses and averages that exclude each other."""

from typing import Any


def find_loss_problem(config: Any) -> str | None:
    """Return what is wrong with the settings of the loss and of the average, or None.

    Args:
        config: the TrainConfig, whose module imports this one.
    """
    if config.ema and config.average_last:
        return "ema and average_last: a model has one kind of average; set one of them to 0"
    if config.loss == "global" and (config.label_smoothing or config.multi_positive == "share"):
        return 'loss = "global" has no targets to share: set label_smoothing = 0, multi_positive = "mask"'
    if config.reference is not None and config.loss == "sigmoid":
        return 'reference: the sigmoid loss compares no pair with others; set loss = "softmax" or "global"'
    if (config.distill or config.reference) and config.shard_cache_bytes:
        return "shard_cache_bytes: features of distill and reference need all shards before training; set 0"
    return None
