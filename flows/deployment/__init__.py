"""Deployments in Prefect: schedules, automations and limits."""
