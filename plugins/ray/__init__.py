"""Run the tasks of stages, and trainings, on a Ray cluster: `execution.engine = "ray"`, `train.launch = "ray"`."""
