"""What others see of a run while it goes: OpenLineage events, assets and images in Prefect."""
