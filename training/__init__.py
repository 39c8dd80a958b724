"""CLIP in torch: model, loader, trainer and evaluation. Never imports prefect or mlflow."""

import os

# Read once, when torch loads OpenMP. By default its threads spin while they wait for each other: with any other load on
# the cores that made a training step 4-5 times slower than threads that sleep (2 cores, load 7).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
