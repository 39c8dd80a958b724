"""Generate synthetic pairs for benchmarks/filter.py, from hashes of row numbers.

Row r is the same in a set of any size, so a smaller set is the beginning of a larger one. The rows resemble a crawl
(165 to 180 bytes of URL and caption per row in LAION-400M and COYO-700M):

- Captions: words of a language by frequency (wordfreq's lists), 45% English, the rest in 11 languages with about the shares
  of Common Crawl; Chinese and Japanese without spaces. The number of words is log-normal with a median of 8, at most 80.
  35% are in title case, 3% in upper case, 4% end in the name of a site, 7% are file names, 3% dates and sizes.
- URLs: 20,000 hosts with sizes by Zipf's law, a path, a slug of words, a number, sometimes a query; 1% tracking pixels.
- Duplicates: a quarter of the rows have the image of an earlier row, popular ones far more often than others; four in five
  of them have its caption. Every tenth other caption is that of another image, and every twentieth is one of 2,000 frequent
  ones ("Click to enlarge").
"""

import multiprocessing
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

PART_ROWS = 500_000
ROW_GROUP = 1 << 16
LANGUAGES = {
    **{"en": 0.45, "ru": 0.08, "de": 0.08, "ja": 0.07, "zh": 0.07, "es": 0.07, "fr": 0.06},
    **{"it": 0.03, "nl": 0.03, "pl": 0.02, "pt": 0.02, "tr": 0.02},
}
_UNSPACED = ("ja", "zh")
_WORDS = 30_000  # per language
_SLOTS = 1 << 17  # slots of a table that samples a distribution; rarer values are never sampled


def random_bits(rows, salt):
    """Return 64 random bits for each row (splitmix64)."""
    z = rows * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt * 0xD1B54A32D192ED03 % (1 << 64))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def random_shares(rows, salt):
    """Return a random number in [0, 1) for each row."""
    return (random_bits(rows, salt) >> np.uint64(11)).astype(np.float64) / (1 << 53)


def make_table(weights):
    """Return a table (_SLOTS,) of indices, each with a frequency proportional to its weight."""
    sums = np.cumsum(np.asarray(weights, np.float64))
    return np.searchsorted(sums, (np.arange(_SLOTS) + 0.5) / _SLOTS * sums[-1]).astype(np.int32)


def sample_table(table, rows, salt):
    """Return a random entry of the table for each row."""
    return table[random_bits(rows, salt) >> np.uint64(64 - 17)]


@lru_cache(maxsize=1)
def load_words():
    """Return the words of all languages, each with a space after it, and for each language a table of their indices."""
    from wordfreq import get_frequency_dict

    texts = []
    tables = np.empty((len(LANGUAGES), _SLOTS), np.int32)
    for number, language in enumerate(LANGUAGES):
        known = sorted(get_frequency_dict(language, "small").items(), key=lambda item: (-item[1], item[0]))[:_WORDS]
        tables[number] = make_table([weight for _, weight in known]) + len(texts)
        texts += [word + ("" if language in _UNSPACED else " ") for word, _ in known]
    return pa.array(texts, pa.large_string()), tables


def image_numbers(rows):
    """Return the number of the image of each row: its own, or that of an earlier row."""
    earlier = (rows.astype(np.float64) * random_shares(rows, 1) ** 3).astype(np.uint64)
    return np.where(random_shares(rows, 2) < 0.25, earlier, rows)


def caption_numbers(rows, images):
    """Return the number of the caption of each row."""
    which = random_shares(rows, 3)
    own = np.where(which < 0.8, images, rows + np.uint64(1 << 40))
    another = (rows.astype(np.float64) * random_shares(rows, 4) ** 3).astype(np.uint64)
    frequent = np.uint64(1 << 41) + (2000 * random_shares(rows, 5) ** 3).astype(np.uint64)
    kind = random_shares(images, 6)
    return np.where(kind < 0.05, frequent, np.where(kind < 0.15, another, own))


def make_texts(numbers, salt, median, spread, most, language=None):
    """Return a text for each number, with a log-normal number of words, at most `most`."""
    known, tables = load_words()
    normal = np.sqrt(-2 * np.log(1 - random_shares(numbers, salt))) * np.cos(
        2 * np.pi * random_shares(numbers, salt + 1)
    )
    counts = np.exp(np.log(median) + spread * normal).round().clip(1, most).astype(np.int64)
    shares = np.cumsum(list(LANGUAGES.values()))
    if language is None:
        languages = np.searchsorted(shares / shares[-1], random_shares(numbers, salt + 2), side="right").astype(
            np.uint64
        )
    else:
        languages = np.full(len(numbers), language, np.uint64)
    ends = np.cumsum(counts)
    positions = np.arange(ends[-1], dtype=np.int64) - np.repeat(ends - counts, counts)  # 0, 1, ... in each text
    seeds = np.repeat(random_bits(numbers, salt + 3), counts) + positions.astype(np.uint64)
    slots = random_bits(seeds, salt + 4) >> np.uint64(64 - 17)
    flat = known.take(pa.array(tables.reshape(-1)[np.repeat(languages, counts) * np.uint64(_SLOTS) + slots]))
    offsets = np.frombuffer(flat.buffers()[1], np.int64)[np.concatenate([[0], ends])]
    texts = pa.LargeStringArray.from_buffers(len(numbers), pa.py_buffer(offsets), flat.buffers()[2])
    return pl.Series(texts).str.strip_chars_end(" ")


def make_captions(numbers):
    """Return the caption of each number."""
    kind = random_shares(numbers, 20)
    frame = pl.DataFrame(
        {"text": make_texts(numbers, 30, 8, 0.75, 80), "kind": kind, "n": random_bits(numbers, 21) % np.uint64(9999)}
    )
    text, which, n = pl.col("text"), pl.col("kind"), pl.col("n").cast(pl.String)
    camera = pl.concat_str(pl.lit("IMG_"), n, pl.lit(".jpg"))
    named = pl.concat_str(text.str.slice(0, 20).str.replace_all(" ", "-"), pl.lit("-"), n, pl.lit(".png"))
    sizes = pl.concat_str(n, pl.lit(" x "), n, pl.lit(" px"))
    kinds = [
        (0.04, camera),
        (0.07, named),
        (0.10, sizes),
        (0.13, text.str.to_uppercase()),
        (0.48, text.str.to_titlecase()),
    ]
    kinds.append((0.52, pl.concat_str(text, pl.lit(" | Site "), n)))
    return frame.select(caption=_choose(which, kinds, text)).to_series()


def make_urls(images):
    """Return the URL of each image."""
    host = sample_table(make_table(1 / np.arange(1, 20_001) ** 0.9), images, 10).astype(np.int64)
    kind, ending = random_shares(images, 11), random_shares(images, 12)
    year, month = (2008 + host % 17), (random_bits(images, 13) % np.uint64(12)).astype(np.int64) + 1
    frame = pl.DataFrame({"host": host, "kind": kind, "ending": ending, "id": images, "year": year, "month": month})
    frame = frame.with_columns(slug=make_texts(images, 14, 4, 0.4, 8, language=0).str.replace_all(r"[ '’]+", "-"))
    host_, id_, year_, month_ = (pl.col(name).cast(pl.String) for name in ("host", "id", "year", "month"))
    extension = _choose(
        pl.col("ending"), [(0.78, pl.lit(".jpg")), (0.90, pl.lit(".png")), (0.98, pl.lit(".webp"))], pl.lit(".svg")
    )
    blog = [
        "https://www.site",
        host_,
        ".example/wp-content/uploads/",
        year_,
        "/",
        month_,
        "/",
        pl.col("slug"),
        "-",
        id_,
    ]
    shop = ["https://cdn.shop", host_, ".example/media/catalog/product/", pl.col("slug"), "_", id_, extension]
    pixel = ["https://stats.site", host_, ".example/pixel.gif?id=", id_]
    kinds = [(0.01, _join(*pixel)), (0.20, _join(*shop, "?width=640&height=480")), (0.45, _join(*shop))]
    return frame.select(url=_choose(pl.col("kind"), kinds, _join(*blog, extension))).to_series()


def _choose(share, kinds, otherwise):
    """Return the text of the first kind whose limit is above the share."""
    for limit, text in reversed(kinds):
        otherwise = pl.when(share < limit).then(text).otherwise(otherwise)
    return otherwise


def _join(*pieces):
    return pl.concat_str(pl.lit(piece) if isinstance(piece, str) else piece for piece in pieces)


def make_pairs(start, number):
    """Return URL and caption of the rows start, start + 1, ..."""
    rows = np.arange(start, start + number, dtype=np.uint64)
    images = image_numbers(rows)
    columns = {"url": make_urls(images), "caption": make_captions(caption_numbers(rows, images))}
    return pa.table({name: column.to_arrow().cast(pa.string()) for name, column in columns.items()})


def write_part(path, start, number):
    """Write one part, unless it exists."""
    if not path.is_file():
        part = path.with_suffix(".part")
        pq.write_table(make_pairs(start, number), part, compression="zstd", row_group_size=ROW_GROUP)
        part.rename(path)


def make_parts(folder, rows):
    """Write the first `rows` rows in parts of PART_ROWS, unless they exist; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    spans = [(start, min(PART_ROWS, rows - start)) for start in range(0, rows, PART_ROWS)]
    paths = [folder / f"part-{start // PART_ROWS:05d}-{number}.parquet" for start, number in spans]
    with multiprocessing.get_context("spawn").Pool(min(len(spans), 2)) as pool:
        pool.starmap(write_part, [(path, *span) for path, span in zip(paths, spans, strict=True)], chunksize=1)
    return paths
