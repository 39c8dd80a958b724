"""Recipes of training whose gain on web data has not been measured here: losses, optimizers, schedules and hooks."""
