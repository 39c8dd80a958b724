"""Pages of snapshots of extract, filter, download, curate and train: in MLflow, and by `pairmill show --page`."""
