"""The grid of photographs that a demo names."""

import io

from PIL import Image

from docs.tools.photo_grid import COLOURS, GAP, LINE, SIDE, draw_grid


def test_a_right_name_is_coloured_and_the_photograph_is_cropped_to_a_square():
    photo = io.BytesIO()
    Image.new("RGB", (60, 90), "#204060").save(photo, "PNG")
    grid = draw_grid([(photo.getvalue(), "pear", ["apple", "pear", "lime"])] * 6, "light")
    ground, _, right = COLOURS["light"]
    assert grid.getpixel((0, 0)) == Image.new("RGB", (1, 1), ground).getpixel((0, 0))
    assert grid.getpixel((GAP + SIDE // 2, GAP + SIDE // 2)) == (0x20, 0x40, 0x60)
    second = (GAP + 2, GAP + SIDE + 6 + 2 * LINE - 2)  # the line below the second name
    assert grid.getpixel(second) == Image.new("RGB", (1, 1), right).getpixel((0, 0))
    assert grid.height > 2 * SIDE  # a second row
