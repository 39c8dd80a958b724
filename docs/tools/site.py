"""Build the documentation site into build/docs/site: python -m docs.tools.site.

The pages link to each other and to files of the repository. So the pages, and the other files to which they link, are
copied with their paths into one folder, from which Zensical builds the site: each link works as on a forge, unchanged.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from docs.tools.links import ROOT, linked_file, links, pages

_REMOTE = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|<link\b[^>]*\bhref=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|<[a-z]+ class=\"(?:mermaid|glightbox|pyodide)\""  # the theme's script would fetch libraries for these
)
_REMOTE_STYLE = re.compile(r"url\([\"']?(?:https?:)?//[^)]+\)|@import\s+[\"'](?:https?:)?//[^\"']+")


def main() -> None:
    """Copy the sources, build the site without warnings, and check that its pages request nothing from other hosts."""
    folder = ROOT / "build" / "docs"
    shutil.rmtree(folder, ignore_errors=True)
    copy_sources(folder / "source")
    (folder / "zensical.toml").write_text(_config(), encoding="utf-8")
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}")
    if remote := list(remote_requests(folder / "site")):
        sys.exit("\n".join(remote))
    sys.stdout.write(f"built {(folder / 'site' / 'index.html').relative_to(ROOT)}\n")


def copy_sources(folder: Path) -> None:
    """Copy all pages, and the files to which they link, into a folder, each with its path in the repository."""
    found = pages()
    for page in found:
        targets = (linked_file(page, target) for target in links(page.read_text(encoding="utf-8")))
        for file in {page, *(target for target in targets if target is not None and target.is_file())}:
            copy = folder / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def remote_requests(site: Path) -> Iterator[str]:
    """Yield what the pages and styles of a site would request from another host."""
    for path in sorted(site.rglob("*")):
        pattern = {".html": _REMOTE, ".css": _REMOTE_STYLE}.get(path.suffix)
        for found in pattern.findall(path.read_text(encoding="utf-8")) if pattern else ():
            yield f"{path.relative_to(site)} requests {found}"


def _config() -> str:
    """Return Zensical's config, with the navigation that docs/README.md lists."""
    return f"""[project]
site_name = "pairmill"
docs_dir = "source"
site_dir = "site"
use_directory_urls = false
nav = [
{_navigation()}]

[project.theme]
font = false
features = ["navigation.sections", "navigation.top", "content.code.copy", "toc.follow"]

[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"
toggle.icon = "lucide/sun"
toggle.name = "Use the dark scheme"

[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"
toggle.icon = "lucide/moon"
toggle.name = "Use the light scheme"

[project.markdown_extensions.tables]

[project.markdown_extensions.toc]
permalink = true

[project.markdown_extensions.toc.slugify]
object = "pymdownx.slugs.slugify"
kwds = {{ case = "lower" }}

[project.markdown_extensions.pymdownx.superfences]

[project.markdown_extensions.pymdownx.highlight]
pygments_lang_class = true
"""


def _navigation() -> str:
    """Return the sections and links of docs/README.md as entries of `nav`."""
    page = ROOT / "docs" / "README.md"
    lines, is_open = ['  { "Home" = "README.md" },\n  { "Map" = "docs/README.md" },\n'], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            lines.append(("  ] },\n" if is_open else "") + f'  {{ "{line[3:].partition(":")[0]}" = [\n')
            is_open = True
        elif found := re.match(r"- \[([^\]]+)\]\(([^)#]+)\)", line):
            file = linked_file(page, found[2])
            if file is not None and file.suffix == ".md":
                lines.append(f'    {{ "{found[1]}" = "{file.relative_to(ROOT)}" }},\n')
    return "".join(lines) + ("  ] },\n" if is_open else "")


if __name__ == "__main__":
    main()
