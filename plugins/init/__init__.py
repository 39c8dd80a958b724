"""`pairmill init` and `pairmill config`: a new project, the keys of a config, and the JSON Schema of all configs."""
