"""The commands of `pairmill`: one module per command or group of commands."""
