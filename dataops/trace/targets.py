"""Parses the targets of `trace` and `takedown`, and finds the rows that match them.

uid      the pair with this uid
url      pairs with this URL of the image or of the page, also with other percent escapes in its path
domain   pairs whose image or page is on this host or a subdomain
sha256   pairs whose image, as fetched, has this digest
phash    pairs whose image looks like this: its perceptual hash differs in at most `bits` of 64 bits

A row also matches by the uid and the page of any of its further captions (the column `captions`).
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Literal, NamedTuple, get_args
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataops.images import decode as images
from dataops.schema import CAPTIONS
from dataops.web.urls import OWN_IMAGES, BadUrl, canonicalise_url

Kind = Literal["uid", "url", "domain", "sha256", "phash"]
KINDS: tuple[Kind, ...] = get_args(Kind)
COLUMNS = ("uid", "url", "page_url", "sha256", "phash", "captions")
"""Columns that are matched; parts of early stages lack some."""
PHASH_BITS = 6
"""Maximum Hamming distance of the hash of a copy, in bits; `curate` uses the same for near-duplicates."""
MAX_URL_CHARS = 8192
_SAFE = ("", "!*'()", "!*();:@$,", "!*;:@&=+$,", "!*'();:@&=+$,")
"""Characters that programs do not escape in the path of a URL: Python and PHP, JavaScript's encodeURIComponent, MediaWiki,
Firefox where it copies an address, other browsers."""
_HEX = {"uid": 32, "sha256": 64, "phash": 16}
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+")
_PREFIXED = re.compile(rf"({'|'.join(KINDS)}):(?!//)(.*)", re.DOTALL)


class Target(NamedTuple):
    """One value to search for."""

    kind: Kind
    value: str
    bits: int = 0
    """Maximum Hamming distance of a phash, in bits."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" + (f"~{self.bits}" if self.bits else "")

    @property
    def spellings(self) -> set[str]:
        """The value; of a URL also with the escapes in its path that other programs write, such as `%7E` for `~`."""
        found, url = {self.value}, urlsplit(self.value)
        if self.kind == "url" and re.search(r"[^\w/.-]", url.path):
            folders = [*map(unquote_to_bytes, url.path.split("/"))]
            for safe, tilde in product(_SAFE, ("~", "%7E")):
                path = "/".join(quote_from_bytes(folder, safe) for folder in folders)
                spelling = url._replace(path=path.replace("~", tilde)).geturl()
                found |= {spelling, re.sub("%..", lambda escape: escape[0].lower(), spelling)}
        return found


def parse_target(text: str) -> Target:
    """Parse a target: `kind:value`, or the value only, if its kind is clear.

    `phash:HEX~4` sets the number of bits. URLs and host names become canonical.

    Raises: ValueError with the expected forms.
    """
    text = text.strip()
    if found := _PREFIXED.fullmatch(text):
        return _parse_value(found[1], found[2].strip())
    if re.match(rf"https?://|{OWN_IMAGES}", text, re.IGNORECASE):
        return _parse_value("url", text)
    if re.fullmatch(r"[0-9a-fA-F]{32}", text):
        return _parse_value("uid", text)
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return _parse_value("sha256", text)
    if "." in text:
        return _parse_value("domain", text)
    forms = "a uid (32 hex digits), a URL, a domain, a sha256 (64 hex digits)"
    raise ValueError(f"{text!r} is none of: {forms}; or write {'|'.join(KINDS)}:VALUE")


def _parse_value(kind: str, value: str) -> Target:
    if kind == "url" and value.startswith(OWN_IMAGES):
        return Target("url", value)
    if kind == "url":
        try:
            return Target("url", canonicalise_url(value, "", MAX_URL_CHARS))
        except BadUrl as bad:
            raise ValueError(f"{value!r} is no http or https URL ({bad.reason})") from bad
    if kind == "domain":
        return Target("domain", _parse_domain(value))
    digits, tilde, bits = value.lower().partition("~")
    if not re.fullmatch(rf"[0-9a-f]{{{_HEX[kind]}}}", digits) or (tilde and kind != "phash"):
        raise ValueError(f"{value!r} is no {kind}: {_HEX[kind]} hex digits")
    if tilde and not (bits.isdigit() and int(bits) <= 16):
        raise ValueError(f"{value!r}: the number after ~ must be 0 to 16 bits by which the hash may differ")
    return Target("phash" if kind == "phash" else "uid" if kind == "uid" else "sha256", digits, int(bits or 0))


def _parse_domain(value: str) -> str:
    """Return a host as in canonical URLs: in lower case, IDNA."""
    name = value.strip().removeprefix("*.").strip(".")
    try:
        host = parse_host(canonicalise_url(f"http://{name}/", "", 512)) or ""
    except BadUrl:
        host = ""
    if not _HOST.fullmatch(host) or re.search(r"[/\\?#@]", name):
        raise ValueError(f"{value!r} is no domain; write a host name of at least two labels, such as example.org")
    return host


def image_targets(data: bytes, bits: int = PHASH_BITS) -> list[Target]:
    """Return the targets of an image file: its sha256, and its phash for similar images.

    Raises: ImageRefused when the image cannot be decoded.
    """
    from dataops.images.fingerprint import fingerprint  # loads OpenCV

    hashed = fingerprint(images.decode_pixels(data, max_area=64_000_000)).phash
    return [Target("sha256", hashlib.sha256(data).hexdigest()), Target("phash", f"{hashed:016x}", bits)]


def parse_host(url: str | None) -> str | None:
    """Return the host of a canonical URL."""
    found = re.match(r"https?://([^/?#:]+)", url or "")
    return found[1] if found else None


def list_domains(host: str) -> list[str]:
    """Return a host and each domain above it."""
    labels = host.split(".")
    return [".".join(labels[at:]) for at in range(len(labels))]


def matching_rows(table: pa.Table, targets: Sequence[Target]) -> np.ndarray:
    """Return whether each row of a table matches a target (N,)."""
    if not targets:
        return np.zeros(table.num_rows, bool)
    texts = [column for column in COLUMNS if column in table.column_names and column != CAPTIONS.name]
    columns = {column: table[column].cast(pa.string()) for column in texts}
    mask = np.zeros(table.num_rows, bool)
    if CAPTIONS.name in table.column_names:
        captions, rows = list_captions(table)
        mask[rows[matching_rows(captions, targets)]] = True
    for kind in ("uid", "url", "sha256"):
        values = [value for target in targets if target.kind == kind for value in target.spellings]
        for column in ("url", "page_url") if kind == "url" else (kind,):
            if values and column in columns:
                sought = pc.SetLookupOptions(pa.array(values, pa.string()))
                mask |= pc.call_function("is_in", [columns[column]], sought).to_numpy()
    domains = {target.value for target in targets if target.kind == "domain"}
    for column in ("url", "page_url"):
        if domains and column in columns:
            urls = columns[column].to_pylist()
            mask |= np.fromiter((_is_on_domain(url, domains) for url in urls), bool, table.num_rows)
    if "phash" in columns:
        mask |= match_phash(columns["phash"].to_pylist(), [t for t in targets if t.kind == "phash"])
    return mask


def phash_distances(table: pa.Table, targets: Sequence[Target]) -> list[int]:
    """Return for rows that match a target the Hamming distance to the nearest phash; 0 if another target matches."""
    others = [target for target in targets if target.kind != "phash"]
    hashes = table["phash"].to_pylist() if "phash" in table.column_names else [None] * table.num_rows
    sought = [int(target.value, 16) for target in targets if target.kind == "phash"]
    exact = matching_rows(table, others) if others else np.zeros(table.num_rows, bool)
    return [
        0 if is_exact or not found else min((int(found, 16) ^ one).bit_count() for one in sought)
        for found, is_exact in zip(hashes, exact.tolist(), strict=True)
    ]


def list_captions(table: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Return the further captions of all rows as a table, and the index of the row of each."""
    column = table[CAPTIONS.name].combine_chunks().cast(CAPTIONS.type)
    rows = pc.list_parent_indices(column).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    flat = column.flatten()
    return pa.table({field.name: flat.field(field.name) for field in CAPTIONS.type.value_type}), rows


def _is_on_domain(url: str | None, domains: set[str]) -> bool:
    return any(domain in domains for domain in list_domains(parse_host(url) or ""))


def match_phash(hashes: Sequence[str | None], targets: Iterable[Target]) -> np.ndarray:
    """Return whether each hash matches a target of the kind phash (N,)."""
    whole = np.array([h is not None and len(h.encode()) == 16 for h in hashes], bool)
    numbers = np.array([int(h or "", 16) if ok else 0 for h, ok in zip(hashes, whole, strict=True)], np.uint64)
    mask = np.zeros(len(numbers), bool)
    for target in targets:
        mask |= np.bitwise_count(numbers ^ np.uint64(int(target.value, 16))) <= target.bits
    return mask & whole
