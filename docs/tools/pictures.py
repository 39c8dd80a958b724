"""Write the pictures of README.md from a folder in which the demo ran; `docs.tools.outputs` calls it.

A picture is a part of a page that pairmill wrote, or the output of a command, as Chromium shows it. Each PNG holds the keys
of the run's stages in its text `keys`; a test compares them with those that README.md prints. A takedown would change the
project, so it runs on a copy of it, with servers of its own.
"""

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from PIL import Image, ImageChops, PngImagePlugin

from dataops.home import CHECKOUT
from docs.tools.photo_grid import COLOURS as GRID_COLOURS
from docs.tools.photo_grid import draw_predictions

IMAGES = Path(CHECKOUT) / "docs" / "images"
WIDTH, COLUMNS, SCALE = 652, 74, 2
"""Width of a picture in CSS pixels and in characters of a terminal, and its pixels per CSS pixel: a telephone, which shows
it at about 400 pixels, still has letters of 9 pixels."""
COLOURS = 128
"""Size of a picture's palette, which keeps a file small."""
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
  body { margin: 0; background: #0d1117; color: #e6edf3; font: 14px/1.4 monospace }
  pre { margin: 14px; font: inherit }
  b { color: #7ee787 }
</style><pre>"""
Run = Callable[[str], str]
"""Runs a command line in the folder of the demo and returns its output."""


def write_pictures(folder: Path, run: Run, variables: Mapping[str, str]) -> None:
    """Write all pictures of a finished demo.

    Args:
        folder: the project, which holds `.pairmill`.
        variables: those of `docs.tools.outputs.read_variables`.
    """
    store = folder / variables["STORE"]
    keys = json.dumps({name: key for name, key in sorted(variables.items()) if re.fullmatch("[0-9a-f]{16}", key)})
    kept, opted_out = _middle_url(store, "pack", variables), _middle_url(store, "download", variables, "opt_out")
    config = f".pairmill/{re.split('-20[0-9]{6}T', variables['RUN'])[0]}.toml"
    dataset = store / "pack" / variables["PACK"] / "dataset.html"
    predictions = store / "evaluate" / variables["EVALUATE"] / "predictions-groceries.parquet"
    for scheme in GRID_COLOURS:
        _save(draw_predictions(predictions, scheme), f"groceries-{scheme}", keys, colours=256)
    with tempfile.TemporaryDirectory() as name:
        page = Path(name) / "page.html"
        page.write_text(select_sections(dataset.read_text("utf-8"), ["Examples of kept pairs"]), "utf-8")
        for scheme in ("light", "dark"):
            _screenshot(page, f"dataset-{scheme}", keys, 560, is_dark=scheme == "dark")
        takedown = 'takedown letter.txt --reason "a letter of the artist"'
        for picture, commands, among in (
            ("plan", [f"plan {config} --set train.epochs=20"], run),
            ("trace", [f"trace {kept} --limit 1"], run),
            ("opt-out", [f"trace {opted_out} --limit 1"], run),
            ("takedown", ["cat letter.txt", takedown], None),
        ):
            if among is None:
                with _copy(folder, run, f"{kept}\n") as copied:
                    text = "\n".join(_transcribe(commands, copied))
            else:
                text = "\n".join(_transcribe(commands, among))
            page.write_text(TERMINAL + text, "utf-8")
            _screenshot(page, picture, keys, 2000, is_dark=True)


def select_sections(page: str, heads: Iterable[str]) -> str:
    """Return a page with its title and the first section below each heading that begins as one of `heads`."""
    first, *sections = re.split(r"(?=<h[1-6]\b)", page)
    chosen = [sections[0]]
    for head in heads:
        chosen += [one for one in sections[1:] if re.match(rf"<h\d[^>]*>{re.escape(head)}", one)][:1]
    return "".join([first, *chosen])


def _transcribe(commands: Iterable[str], run: Run) -> Iterator[str]:
    for command in commands:
        shown = command if command.startswith("cat ") else f"pairmill {command}"
        lines = [line for long in run(f"COLUMNS={COLUMNS} {shown}").strip().splitlines() for line in _wrap(long)]
        yield f"<b>{html.escape(chr(10).join(_wrap(f'$ {shown}')))}</b>\n{html.escape(chr(10).join(lines))}"


def _wrap(line: str) -> list[str]:
    """Break a line that is too long for the picture; its other lines are indented as its text is."""
    indent = line[: len(line) - len(line.lstrip(" │├└─"))]
    later = re.sub("[├└─]", lambda found: "│" if found[0] == "├" else " ", indent) + "  "
    text = line[len(indent) :]
    return textwrap.wrap(text, COLUMNS, initial_indent=indent, subsequent_indent=later, break_on_hyphens=False) or [""]


def _middle_url(store: Path, stage: str, variables: Mapping[str, str], drop_reason: str | None = None) -> str:
    """Return the URL of a row that a stage kept, or dropped for a reason: the one in the middle of the alphabet."""
    kind = "part" if drop_reason is None else "dropped"
    rows = pl.scan_parquet(store / stage / variables[stage.upper()] / f"{kind}-*.parquet")
    rows = rows if drop_reason is None else rows.filter(pl.col("drop_reason") == drop_reason)
    urls = rows.select("url").sort("url").collect()["url"]
    return str(urls[len(urls) // 2])


@contextmanager
def _copy(folder: Path, run: Run, request: str) -> Iterator[Run]:
    """Yield what runs commands in a copy of the project, whose servers are not those of the project."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / ".pairmill"
        shutil.copytree(folder / ".pairmill", home)
        for path in (*home.glob("services/*/state.json"), *home.glob("runs/*"), *home.glob("deployed/*")):
            path.unlink()  # the servers and stores of the project, which a command in the copy must not use
        (home.parent / "letter.txt").write_text(request, "utf-8")
        prefix = f"cd {name} && PAIRMILL_HOME={home}"
        run(f"{prefix} pairmill up")
        try:
            yield lambda command: run(f"{prefix} {command}").replace(f"{home}/", ".pairmill/")
        finally:
            run(f"{prefix} pairmill down")


def _screenshot(page: Path, name: str, keys: str, height: int, *, is_dark: bool) -> None:
    """Write a screenshot of a page without the empty space below its content, reduced to a palette."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("Chromium is not installed")
    raw = page.with_name("screenshot.png")
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={raw}"),
            *(f"--blink-settings=preferredColorScheme={0 if is_dark else 1}", "--virtual-time-budget=5000"),
            *(f"--window-size={WIDTH},{height}", f"--force-device-scale-factor={SCALE}", page.as_uri()),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(raw) as image:
        picture = image.convert("RGB")
        empty = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
        *_, bottom = ImageChops.difference(picture, empty).getbbox() or (0, 0, 0, picture.height)
        _save(picture.crop((0, 0, picture.width, min(picture.height, bottom + 14 * SCALE))), name, keys)


def _save(picture: Image.Image, name: str, keys: str, colours: int = COLOURS) -> None:
    text, target = PngImagePlugin.PngInfo(), IMAGES / f"{name}.png"
    text.add_text("keys", keys)
    picture.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True, pnginfo=text)
    sys.stdout.write(f"wrote {target.relative_to(CHECKOUT)}, {target.stat().st_size:,} bytes\n")
