"""CLIP in torch: model, loader, trainer and evaluation. This package never imports prefect or mlflow."""

import os

# OpenMP reads these once, when torch loads it, so importing this package sets them. By default OpenMP's threads spin while
# they wait for each other, which slows a training step several times where other processes need the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
