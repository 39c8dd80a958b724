"""Finds the targets of a takedown that rows match."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dataops.schema import CAPTIONS
from dataops.trace.targets import COLUMNS, Target, list_domains, match_phash, parse_host


def matched_targets(rows: Sequence[Mapping[str, Any]], targets: Iterable[Target]) -> set[Target]:
    """Return the targets that match at least one of the rows, which may lack some of `COLUMNS`."""
    rows = [*rows, *(caption for row in rows for caption in row.get(CAPTIONS.name) or ())]
    texts = [column for column in COLUMNS if column != CAPTIONS.name]
    values = {column: {row[column] for row in rows if row.get(column) is not None} for column in texts}
    urls = values["url"] | values["page_url"]
    hosts = {parse_host(url) or "" for url in urls}
    known = {
        **{"uid": values["uid"], "sha256": values["sha256"], "url": urls},
        "domain": {domain for host in hosts for domain in list_domains(host)},
    }
    hashes = sorted(values["phash"])
    return {
        target
        for target in targets
        if (
            match_phash(hashes, [target]).any()
            if target.kind == "phash"
            else not known[target.kind].isdisjoint(target.spellings)
        )
    }
