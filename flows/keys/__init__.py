"""The keys of the config: what each one means, their JSON Schema, and the values that a config file resolves to."""
