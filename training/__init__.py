"""CLIP in torch: model, loader, trainer and evaluation. Never imports prefect or mlflow."""
