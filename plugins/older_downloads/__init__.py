"""Continues a download that an older version of the stage began (docs/operate/versions.md)."""
