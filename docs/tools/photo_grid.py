"""Draw photographs of the demo's set `groceries`, which the model has not seen, with the names that it finds most likely.

Every 27th photograph is shown with three names, right or wrong.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

EVERY, COLUMNS, SIDE, GAP, LINE = 27, 5, 168, 16, 21
"""Step between photographs, photographs in a row, and pixels of a photograph, a gap and a line of text."""
COLOURS = {"light": ("#ffffff", "#1f2328", "#1a7f37"), "dark": ("#0d1117", "#e6edf3", "#3fb950")}
"""Colour of the ground, of names, and of the right name."""


def draw_grid(photos: Sequence[tuple[bytes, str, Sequence[str]]], scheme: str) -> Image.Image:
    """Return a picture of photographs, each with names below it; the right one is coloured and has a tick.

    Args:
        photos: JPEG, right name, and the names in their order.
        scheme: light or dark.
    """
    ground, ink, right = COLOURS[scheme]
    rows = -(-len(photos) // COLUMNS)
    cell = SIDE + 3 * LINE + 2 * GAP
    picture = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * cell + GAP), ground)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for number, (jpeg, label, names) in enumerate(photos):
        left, top = GAP + number % COLUMNS * (SIDE + GAP), GAP + number // COLUMNS * cell
        photo = Image.open(io.BytesIO(jpeg)).convert("RGB")
        side = min(photo.size)
        x, y = ((length - side) // 2 for length in photo.size)
        picture.paste(
            photo.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top)
        )
        for line, name in enumerate(names):
            place = (left, top + SIDE + 6 + line * LINE)
            draw.text(place, f"{line + 1}  {name}", fill=right if name == label else ink, font=font)
            if name == label:
                width = draw.textlength(f"{line + 1}  {name}", font=font)
                draw.line((left, place[1] + LINE - 2, left + width, place[1] + LINE - 2), fill=right, width=2)
    return picture


def draw_predictions(predictions: Path, scheme: str) -> Image.Image:
    """Return the grid of an evaluation's `predictions-groceries.parquet`."""
    from plugins.demo.groceries import load_names, load_photos  # the other tools need no plugin

    kinds, photos = load_names()["en"], load_photos("test")
    rows = pq.read_table(predictions).to_pylist()[::EVERY]
    shown = [(photos[int(row["key"])].jpeg, row["label_name"], [kinds[at] for at in row["top5"][:3]]) for row in rows]
    return draw_grid(shown, scheme)
