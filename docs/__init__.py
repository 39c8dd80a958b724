"""The documentation, and in `tools` the scripts that write its generated pages. Not part of the installed packages."""
