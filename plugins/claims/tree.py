"""Write and read the trees of a dataset: a Merkle tree over the sorted digests of its images, and one over their hashes.

An object `index-claims-00000.bin` for each group of at most ROWS rows:

    64 bytes                   MAGIC, then the number of digests, of perceptual hashes, and of rows
    digests                    32 bytes each, sorted: the digests of the images' sha256 (`blind`)
    levels of their tree       32 bytes a node, from the leaves to the top
    perceptual hashes          8 bytes each, sorted
    levels of their tree

A leaf is BLOCK values with the value before them, so that one path shows that a value is there, or that it is not. Source:
RFC 9162, section 2.1 (the hashes of leaves and nodes, and the form of the tree).

The root of a group is in the facts of the manifest (`commitments.claims`), and so in the MLflow run of each version.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from dataops.errors import CorruptPart
from dataops.snapshot import INDEX, READS_AT_ONCE, Draft, Manifest, Part
from dataops.storage.base import RangeFile
from dataops.store import Store
from plugins.claims.verify_claim import BLOCK, WIDTHS, blind, hash_node, hash_root
from tasks.engine.exchange import group_units
from tasks.search import read_columns

NAME = "claims"
MAGIC = b"pairmill-claims1"
HEADER = 64
ROWS = 1 << 24
"""Maximum number of rows of a tree, which one process sorts in memory: about 3 GB (1.8 GB for 10 million rows)."""


@dataclass(frozen=True)
class Layout:
    """Where the values and the levels of a tree lie in an object."""

    kind: str
    values: int
    start: int

    @property
    def width(self) -> int:
        """Bytes of a value."""
        return WIDTHS[self.kind]

    @property
    def sizes(self) -> list[int]:
        """Number of nodes of each level, from the leaves to the top."""
        sizes = [-(-self.values // BLOCK)]
        while sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // 2))
        return sizes

    @property
    def end(self) -> int:
        """Offset of the first byte after it."""
        return self.start + self.width * self.values + 32 * sum(self.sizes)


def commit_rows(draft: Draft, parts: Sequence[Part], rows: int = ROWS) -> tuple[list[Part], list[dict[str, Any]]]:
    """Write the trees of the rows of some parts; return the objects as parts, and a statement of each tree."""
    written, statements = list[Part](), list[dict[str, Any]]()
    for number, group in enumerate(group_units(parts, [part.rows for part in parts], rows)):
        found: dict[str, list[bytes]] = {kind: [] for kind in WIDTHS}
        for start in range(0, len(group), READS_AT_ONCE):
            names = [f"{draft.folder_of(part)}/{part.name}" for part in group[start : start + READS_AT_ONCE]]
            with ThreadPoolExecutor(READS_AT_ONCE) as pool:
                tables = list(pool.map(lambda name: read_columns(draft.store, name, list(WIDTHS)), names))
            for table in tables:
                found["sha256"].append(b"".join(map(blind, table["sha256"].drop_null().to_pylist())))
                found["phash"].append(bytes.fromhex("".join(table["phash"].drop_null().to_pylist())))
        data, statement = encode_trees(found, sum(part.rows for part in group))
        written.append(draft.put_bytes(f"{INDEX}{NAME}-{number:05d}.bin", data, statement["rows"]))
        statements.append(statement)
    return written, statements


def encode_trees(values: Mapping[str, Iterable[bytes]], rows: int) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of an object, and the statement of its trees: number of values and root of each, and their root.

    Args:
        values: values of each tree, one or several in each piece.
    """
    pieces, counts, roots = list[bytes](), dict[str, int](), dict[str, bytes]()
    for kind, width in WIDTHS.items():
        found = np.unique(np.frombuffer(b"".join(values[kind]), f"S{width}" if width == 32 else ">u8"))
        data = found.tobytes()
        levels = _build_levels(data, width)
        counts[kind], roots[kind] = len(data) // width, hash_root(len(data) // width, levels[-1] if data else b"")
        pieces += [data, *levels]
    numbers = b"".join(value.to_bytes(8, "little") for value in (*counts.values(), rows))
    statement = {"rows": rows, "values": counts, "roots": {kind: root.hex() for kind, root in roots.items()}}
    return b"".join([(MAGIC + numbers).ljust(HEADER, b"\0"), *pieces]), statement | {
        "root": hash_node(*roots.values()).hex()
    }


def _build_levels(data: bytes, width: int) -> list[bytes]:
    """Return the levels of the tree over sorted values, each as its nodes one after the other."""
    step = BLOCK * width
    before = bytes(width) + data
    nodes = [sha256(b"\0" + before[at : at + width + step]).digest() for at in range(0, len(data), step)]
    levels = [b"".join(nodes)]
    while len(nodes) > 1:
        pairs = zip(nodes[::2], nodes[1::2], strict=False)
        nodes = [hash_node(*pair) for pair in pairs] + nodes[len(nodes) & ~1 :]
        levels.append(b"".join(nodes))
    return levels


class Trees:
    """The trees of one object.

    Raises: CorruptPart if the object is not one.
    """

    def __init__(self, store: Store, manifest: Manifest, part: Part):
        self.name = f"{store.uri}/{manifest.path(part.name)}"
        self._file = RangeFile(store, manifest.path(part.name), part.bytes)
        header = self._read(0, HEADER)
        digests, hashes, self.rows = (int.from_bytes(header[at : at + 8], "little") for at in (16, 24, 32))
        first = Layout("sha256", digests, HEADER)
        self.layouts = {"sha256": first, "phash": Layout("phash", hashes, first.end)}
        if header[:16] != MAGIC or self.layouts["phash"].end != part.bytes:
            raise CorruptPart(f"{self.name} is not an object of this plugin; `run --verify` remakes it")

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(size)

    def find_near(self, value: bytes, bits: int) -> bytes | None:
        """Return the perceptual hash that differs least from a value, in at most `bits` bits; None without one."""
        layout = self.layouts["phash"]
        if not layout.values:
            return None
        hashes = np.frombuffer(self._read(layout.start, 8 * layout.values), ">u8").astype(np.uint64)
        distances = np.bitwise_count(hashes ^ np.uint64(int.from_bytes(value)))
        best = int(distances.argmin())
        return int(hashes[best]).to_bytes(8, "big") if distances[best] <= bits else None

    def prove(self, kind: str, value: bytes) -> dict[str, Any]:
        """Return the leaf in which a value is, or would be, and the nodes beside its path; see `verify_proof`."""
        layout = self.layouts[kind]
        if not layout.values:
            return {}
        index, width = self._find_block(layout, value), layout.width
        first, last = BLOCK * index, min(BLOCK * (index + 1), layout.values)
        before = 1 if index else 0
        leaf = bytes(width * (1 - before)) + self._read(
            layout.start + width * (first - before), width * (last - first + before)
        )
        return {"index": index, "leaf": _text(leaf), "path": _text(b"".join(self._climb(layout, index)))}

    def _find_block(self, layout: Layout, value: bytes) -> int:
        """Return the number of the first block whose last value is not below a value; the last one if there is none."""
        low, high = 0, -(-layout.values // BLOCK) - 1
        while low < high:
            middle = (low + high) // 2
            at = layout.start + layout.width * (BLOCK * (middle + 1) - 1)
            low, high = (middle + 1, high) if self._read(at, layout.width) < value else (low, middle)
        return low

    def _climb(self, layout: Layout, index: int) -> Iterator[bytes]:
        start = layout.start + layout.width * layout.values
        for size in layout.sizes[:-1]:
            if (sibling := index ^ 1) < size:
                yield self._read(start + 32 * sibling, 32)
            start, index = start + 32 * size, index >> 1


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def open_trees(store: Store, manifest: Manifest) -> list[Trees]:
    """Return the trees of a dataset; none if it was packed without them."""
    return [Trees(store, manifest, part) for part in manifest.named(f"{INDEX}{NAME}-", ".bin")]
