"""Opt-out lists with PDQ: copies are found, unlike images are not."""

import io

import numpy as np
import polars as pl
from PIL import Image

from plugins.moderation.pdq import PDQ
from tasks.lists.opt_outs import CopyList, match_copies, pack_entries, parse_copy


def jpeg(image, side, quality):
    file = io.BytesIO()
    image.resize((side, side), Image.Resampling.LANCZOS).save(file, "JPEG", quality=quality)
    return file.getvalue()


def test_copies_are_found_with_entry_and_distance():
    blocks = np.random.default_rng(5).integers(0, 256, (4, 24, 24, 3), np.uint8)
    one, two, blank, three = (Image.fromarray(each).resize((256, 256), Image.Resampling.BICUBIC) for each in blocks)
    blank = Image.new("RGB", (256, 256), "white")
    listed = [str(PDQ.compute(jpeg(image, 256, 95))) for image in (one, three)]
    entries = pack_entries([str(parse_copy(f"PDQ:{listed[0].upper()}")), str(parse_copy(f"pdq:{listed[1]}~2"))])
    images = [jpeg(two, 256, 95), jpeg(one, 128, 40), jpeg(blank, 256, 90), jpeg(three, 256, 5)]
    found = match_copies(
        pl.DataFrame({"uid": list("abcd")}), [CopyList("letters", "pdq", entries["pdq"])], lambda: iter(images)
    )
    (mark,) = found.values()
    assert list(found) == [1]
    assert mark.startswith(f"list:letters pdq:{listed[0]}~")
    assert 0 < int(mark.rpartition("~")[2]) <= PDQ.bits
    assert PDQ.compute(images[2]) is None
