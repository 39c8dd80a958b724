"""Run the tasks of stages, and trainings, as SLURM jobs: `execution.engine = "slurm"`, `train.launch = "slurm"`."""
