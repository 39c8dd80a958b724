"""Build the demo's data: a small web site of OpenMoji images, its archive, its server and its evaluation sets.

`plugins.demo.build.build_demo_web` builds all of it; `python -m plugins.demo.server` serves the site. This module is empty
so that the server starts without loading the emoji tables.
"""
