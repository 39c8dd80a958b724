"""CLIP in torch: model, loader, trainer and evaluation. Never imports prefect or mlflow."""

import os

# Read once, when torch loads OpenMP. By default its threads spin for long while they wait for each other: with other work
# on the cores a training step took 4-5 times as long as with threads that soon sleep (2 cores, load 7).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
