"""The commands before a run: `init`, `plan`, `try` and `config`."""
