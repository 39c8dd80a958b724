"""The demo's data: a small real web of OpenMoji pictures, its archive, its server and its evaluation sets.

`tasks.demo.build.build_demo_web` makes all of it; `python -m tasks.demo.server` serves the site. Kept empty so that the
server starts without loading the emoji tables.
"""
