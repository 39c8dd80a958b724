"""The pairs that benchmarks/filter.py measures on: made up, from hashes of row numbers.

Row r of the set is the same in a set of any size, so a smaller set is the beginning of a greater one. It was made to be
like what a crawl gives (165 to 180 bytes of address and caption a row in LAION-400M and COYO-700M):

- Captions: words of a language by their frequency (wordfreq's lists), 45% English, the rest of 11 languages in about the
  shares that they have in Common Crawl; Chinese and Japanese without spaces. Their number is log-normal with a median of 8
  words, at most 80. 35% have capitals at each word, 3% are capitals only, 4% end in a site's name, 7% are names of files,
  3% dates and sizes.
- Addresses: 20,000 hosts of Zipf's sizes, a path, a slug of words, a number, at times a query; 1% are tracking pixels.
- Duplicates: a quarter of the rows show the picture of an earlier row, the popular ones far more often than others; four in
  five of them with its caption. Every tenth other caption is one of another picture, and every twentieth one of 2,000 that
  are everywhere ("Click to enlarge" and such).
"""

import json
import multiprocessing
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataops.digest import file_sha256
from dataops.schema import PAIRS, conform
from dataops.snapshot import Part
from tasks.extract.sources.pairs_writer import compute_uids

PART_ROWS = 500_000
ROW_GROUP = 1 << 16
LANGUAGES = {
    **{"en": 0.45, "ru": 0.08, "de": 0.08, "ja": 0.07, "zh": 0.07, "es": 0.07, "fr": 0.06},
    **{"it": 0.03, "nl": 0.03, "pl": 0.02, "pt": 0.02, "tr": 0.02},
}
_UNSPACED = ("ja", "zh")
_WORDS = 30_000  # of each language
_SLOTS = 1 << 17  # of a table that draws from a distribution: rarer than that is never drawn

Numbers = NDArray[np.uint64]


def drawn(rows: Numbers, salt: int) -> Numbers:
    """A number of 64 random bits for each row (splitmix64)."""
    z = rows * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt * 0xD1B54A32D192ED03 % (1 << 64))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def share(rows: Numbers, salt: int) -> NDArray[np.float64]:
    """A random number in [0, 1) for each row."""
    return (drawn(rows, salt) >> np.uint64(11)).astype(np.float64) / (1 << 53)


def table_of(weights: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int32]:
    """(_SLOTS,) a table of numbers, each as often as its weight says."""
    sums = np.cumsum(np.asarray(weights, np.float64))
    return np.searchsorted(sums, (np.arange(_SLOTS) + 0.5) / _SLOTS * sums[-1]).astype(np.int32)


def from_table(table: NDArray[np.int32], rows: Numbers, salt: int) -> NDArray[np.int32]:
    """A number of the table for each row."""
    return table[drawn(rows, salt) >> np.uint64(64 - 17)]


@lru_cache(maxsize=1)
def words() -> tuple[pa.LargeStringArray, NDArray[np.int32]]:
    """The words of all languages, each with the space after it, and a row of _SLOTS of their numbers for each language."""
    from wordfreq import get_frequency_dict

    texts: list[str] = []
    tables = np.empty((len(LANGUAGES), _SLOTS), np.int32)
    for number, language in enumerate(LANGUAGES):
        known = sorted(get_frequency_dict(language, "small").items(), key=lambda item: (-item[1], item[0]))[:_WORDS]
        tables[number] = table_of([weight for _, weight in known]) + len(texts)
        texts += [word + ("" if language in _UNSPACED else " ") for word, _ in known]
    return pa.array(texts, pa.large_string()), tables


def picture(rows: Numbers) -> Numbers:
    """The number of the picture that each row shows: its own, or an earlier row's."""
    earlier = (rows.astype(np.float64) * share(rows, 1) ** 3).astype(np.uint64)
    return np.where(share(rows, 2) < 0.25, earlier, rows)


def caption_number(rows: Numbers, pictures: Numbers) -> Numbers:
    """The number of the caption of each row."""
    which = share(rows, 3)
    own = np.where(which < 0.8, pictures, rows + np.uint64(1 << 40))
    another = (rows.astype(np.float64) * share(rows, 4) ** 3).astype(np.uint64)
    everywhere = np.uint64(1 << 41) + (2000 * share(rows, 5) ** 3).astype(np.uint64)
    kind = share(pictures, 6)
    return np.where(kind < 0.05, everywhere, np.where(kind < 0.15, another, own))


def text_of(
    numbers: Numbers, salt: int, median: float, spread: float, most: int, language: int | None = None
) -> pl.Series:
    """Words for each number, as many as a log-normal distribution says."""
    known, tables = words()
    normal = np.sqrt(-2 * np.log(1 - share(numbers, salt))) * np.cos(2 * np.pi * share(numbers, salt + 1))
    counts = np.exp(np.log(median) + spread * normal).round().clip(1, most).astype(np.int64)
    shares = np.cumsum(list(LANGUAGES.values()))
    if language is None:
        languages = np.searchsorted(shares / shares[-1], share(numbers, salt + 2), side="right").astype(np.uint64)
    else:
        languages = np.full(len(numbers), language, np.uint64)
    ends = np.cumsum(counts)
    places = np.arange(ends[-1], dtype=np.int64) - np.repeat(ends - counts, counts)  # 0, 1, ... in each text
    seeds = np.repeat(drawn(numbers, salt + 3), counts) + places.astype(np.uint64)
    slots = drawn(seeds, salt + 4) >> np.uint64(64 - 17)
    flat = known.take(pa.array(tables.reshape(-1)[np.repeat(languages, counts) * np.uint64(_SLOTS) + slots]))
    offsets = np.frombuffer(flat.buffers()[1], np.int64)[np.concatenate([[0], ends])]
    texts = pa.LargeStringArray.from_buffers(len(numbers), pa.py_buffer(offsets), flat.buffers()[2])
    return pl.Series(texts).str.strip_chars_end(" ")


def captions(numbers: Numbers) -> pl.Series:
    """The caption of each number."""
    kind = share(numbers, 20)
    frame = pl.DataFrame(
        {"text": text_of(numbers, 30, 8, 0.75, 80), "kind": kind, "n": drawn(numbers, 21) % np.uint64(9999)}
    )
    text, which, n = pl.col("text"), pl.col("kind"), pl.col("n").cast(pl.String)
    camera = pl.concat_str(pl.lit("IMG_"), n, pl.lit(".jpg"))
    named = pl.concat_str(text.str.slice(0, 20).str.replace_all(" ", "-"), pl.lit("-"), n, pl.lit(".png"))
    return frame.select(
        pl.when(which < 0.04)
        .then(camera)
        .when(which < 0.07)
        .then(named)
        .when(which < 0.10)
        .then(pl.concat_str(n, pl.lit(" x "), n, pl.lit(" px")))
        .when(which < 0.13)
        .then(text.str.to_uppercase())
        .when(which < 0.48)
        .then(text.str.to_titlecase())
        .when(which < 0.52)
        .then(pl.concat_str(text, pl.lit(" | Site "), n))
        .otherwise(text)
        .alias("caption")
    ).to_series()


def addresses(pictures: Numbers) -> pl.Series:
    """The address of each picture."""
    host = from_table(table_of(1 / np.arange(1, 20_001) ** 0.9), pictures, 10).astype(np.int64)
    kind, ending = share(pictures, 11), share(pictures, 12)
    year, month = (2008 + host % 17), (drawn(pictures, 13) % np.uint64(12)).astype(np.int64) + 1
    frame = pl.DataFrame({"host": host, "kind": kind, "ending": ending, "id": pictures, "year": year, "month": month})
    frame = frame.with_columns(slug=text_of(pictures, 14, 4, 0.4, 8, language=0).str.replace_all(r"[ '’]+", "-"))
    host_, id_, year_, month_ = (pl.col(name).cast(pl.String) for name in ("host", "id", "year", "month"))
    extension = (
        pl.when(pl.col("ending") < 0.78)
        .then(pl.lit(".jpg"))
        .when(pl.col("ending") < 0.90)
        .then(pl.lit(".png"))
        .when(pl.col("ending") < 0.98)
        .then(pl.lit(".webp"))
        .otherwise(pl.lit(".svg"))
    )
    usual = [
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
    which = pl.col("kind")
    return frame.select(
        pl.when(which < 0.01)
        .then(_joined(*pixel))
        .when(which < 0.20)
        .then(_joined(*shop, "?width=640&height=480"))
        .when(which < 0.45)
        .then(_joined(*shop))
        .otherwise(_joined(*usual, extension))
        .alias("url")
    ).to_series()


def _joined(*pieces: str | pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.lit(piece) if isinstance(piece, str) else piece for piece in pieces)


def pairs(start: int, number: int) -> pa.Table:
    """Rows start, start + 1, ... as extract would write them."""
    rows = np.arange(start, start + number, dtype=np.uint64)
    shown = picture(rows)
    urls, texts = addresses(shown), captions(caption_number(rows, shown))
    side, page = share(shown, 50), rows // np.uint64(7)
    frame = pl.DataFrame(
        {
            "url": urls,
            "caption": texts,
            "caption_source": pl.Series(["alt", "title", "figcaption", "og", "filename"]).gather(
                np.searchsorted([0.8, 0.88, 0.95, 0.98], share(rows, 51))
            ),
            "page": page,
            "host": from_table(table_of(1 / np.arange(1, 20_001) ** 0.9), page, 10),
            "source_offset": (page * np.uint64(4096)).astype(np.int64),
            "declared_width": pl.Series(np.where(side < 0.5, side * 3000 + 1, 0)).cast(pl.Int32).replace(0, None),
        }
    )
    frame = frame.with_columns(
        page_url=_joined(
            "https://www.site", pl.col("host").cast(pl.String), ".example/page/", pl.col("page").cast(pl.String)
        ),
        source=pl.lit("made up"),
        extracted_with=pl.lit("benchmarks.inputs.rows"),
        page_language=pl.when(pl.col("page") % 3 > 0).then(pl.lit("en")),
        declared_height=pl.col("declared_width") * 2 // 3 + 1,
    )
    uids, _ = compute_uids(urls.to_list(), texts.to_list())
    return conform(frame.to_arrow().append_column("uid", uids), PAIRS, "made")


def write_part(path: Path, start: int, number: int) -> Part:
    """One part, and what a manifest says of it in a file beside it; made only where it is not there yet."""
    about = path.with_suffix(".json")
    if about.is_file():
        return Part.model_validate_json(about.read_text())
    table = pairs(start, number)
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)
    total = sum(int(u, 16) for u in table["uid"].to_pylist()) % (1 << 128)
    part = Part(
        name=path.name, rows=number, bytes=path.stat().st_size, sha256=file_sha256(path), uid_sum=f"{total:032x}"
    )
    about.write_text(part.model_dump_json())
    return part


def make_parts(folder: Path, rows: int) -> tuple[list[Path], list[Part]]:
    """The first `rows` rows in parts of PART_ROWS, made on all cores; those that the folder has are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [(start, min(PART_ROWS, rows - start)) for start in range(0, rows, PART_ROWS)]
    paths = [folder / f"part-{start // PART_ROWS:05d}-{number}.parquet" for start, number in pieces]
    with multiprocessing.get_context("spawn").Pool(min(len(pieces), 2)) as pool:
        made = [(path, *piece) for path, piece in zip(paths, pieces, strict=True)]
        return paths, pool.starmap(write_part, made, chunksize=1)


def told(path: Path) -> str:
    """What a part holds, in a line: for the record of a measurement."""
    frame = pl.read_parquet(path, columns=["url", "caption"])
    sizes = frame.select(pl.all().str.len_bytes().mean().round(1)).row(0)
    distinct = frame.select(pl.all().n_unique()).row(0)
    return json.dumps(
        {
            "rows": frame.height,
            "mean bytes of url, caption": sizes,
            "distinct urls, captions": distinct,
            "file": path.stat().st_size,
        }
    )
