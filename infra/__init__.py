"""Local services, diagnosis of an installation, and the files that deploy it."""
