"""Plugins: what a run can do without. Each folder is one, with its config, code, page of documentation and tests.

The core imports none of them, and none imports another. They are registered by entry points (dataops/plugins.py), and each
has an extra of its name in pyproject.toml, which brings the packages that only it needs.
"""
