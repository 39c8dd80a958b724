"""Write docs/images/*.png from a finished demo: python -m docs.tools.overview_picture HOME.

The picture at the top of README.md shows the page of the newest dataset of a home folder beside the newest model card
and evaluation, each as pairmill wrote it. `apple.png` is an image for the README's code. The script needs Chromium.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from dataops.home import CHECKOUT

WIDTH, HEIGHT = 1400, 760
"""Size of the picture, in pixels."""
COLOURS = 96
"""Size of the picture's palette, which keeps a file below 100 kB."""
PAGES = {"dataset.html": "store/pack/*/dataset.html", "card.html": "**/artifacts/model_card.html"} | {
    "evaluation.html": "store/evaluate/*/evaluation.html"
}
"""Pages shown, and where a home folder has them."""
FRAME = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<style>
  body { margin: 0; display: grid; grid-template-columns: 1fr 1fr; height: 100vh; gap: 8px; overflow: hidden;
         background: light-dark(#c9d1d9, #444c56) }
  iframe, object { border: 0; width: 100%; height: 100%; background: light-dark(#fff, #0d1117) }
  div { display: grid; grid-template-rows: 270px 1fr; gap: 8px }
</style>
<iframe src="dataset.html" scrolling="no"></iframe>
<div><iframe src="card.html" scrolling="no"></iframe><iframe src="evaluation.html" scrolling="no"></iframe></div>
"""


def newest(home: Path, pattern: str) -> Path:
    """Return the newest file of a home folder that matches `pattern`.

    Raises: SystemExit when there is none.
    """
    found = sorted(home.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SystemExit(f"{home} has no {pattern}; run the demo first")
    return found[-1]


def screenshot(page: Path, target: Path, *, is_dark: bool) -> None:
    """Write a screenshot of a page, reduced to a palette."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("Chromium is not installed")
    raw = page.with_name("screenshot.png")
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={raw}"),
            *(f"--blink-settings=preferredColorScheme={0 if is_dark else 1}", "--virtual-time-budget=5000"),
            *(f"--window-size={WIDTH},{HEIGHT}", "--allow-file-access-from-files", page.as_uri()),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(raw) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def main() -> None:
    """Write the light and the dark picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("home", type=Path, help="home folder of a finished demo, such as .pairmill")
    home = parser.parse_args().home.resolve()
    images = Path(CHECKOUT) / "docs" / "images"
    images.mkdir(exist_ok=True)
    shutil.copy(newest(home, "demo/site/img/1F34E.png"), images / "apple.png")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for page, pattern in PAGES.items():
            shutil.copy(newest(home, pattern), folder / page)
        frame = folder / "frame.html"
        frame.write_text(FRAME, "utf-8")
        for scheme in ("light", "dark"):
            target = images / f"overview-{scheme}.png"
            screenshot(frame, target, is_dark=scheme == "dark")
            sys.stdout.write(f"wrote {target.relative_to(CHECKOUT)}, {target.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
