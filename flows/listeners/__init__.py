"""What others see of a run while it goes, on the terminal, in Prefect and in MLflow. None of it can fail a run."""
