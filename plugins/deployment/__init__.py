"""Prefect beyond the run itself: `pairmill deploy`, workers, events and notifications, and the artefacts of a run."""
