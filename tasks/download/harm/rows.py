"""Reduce the rows of known harmful images to their uid, the drop reason and the name of the list."""

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa

from dataops.formatting import format_counts, format_quantity
from tasks.download.harm.config import KNOWN_HARM

_LEFT = frozenset({"uid", "key", "shard", "status", "error_message", "drop_reason"})


def blank_matches(table: pa.Table) -> pa.Table:
    """Return the rows of a shard, with nulls in all columns of matches but _LEFT.

    Args:
        table: rows with `drop_reason`, in the order of their uids.
    """
    is_match = pa.array([reason == KNOWN_HARM for reason in table["drop_reason"].to_pylist()], pa.bool_())
    matches = table.filter(is_match)
    if not matches.num_rows:
        return table
    blank = [
        matches[field.name] if field.name in _LEFT else pa.nulls(matches.num_rows, field.type) for field in table.schema
    ]
    rest = table.filter(pa.array([not match for match in is_match.to_pylist()], pa.bool_()))
    return pa.concat_tables([rest, pa.table(blank, schema=table.schema)]).sort_by("uid")


def count_matches(table: pa.Table) -> dict[str, int]:
    """Return the number of matches in a table by the name of the list."""
    pairs = zip(table["drop_reason"].to_pylist(), table["error_message"].to_pylist(), strict=True)
    return dict(Counter(message.partition(": ")[2] for reason, message in pairs if reason == KNOWN_HARM))


def describe_matches(matches: Mapping[str, int]) -> str:
    """Return a sentence on matches by the name of the list."""
    total = sum(matches.values())
    return f"{format_quantity(total, 'image')} on lists of known harmful images ({format_counts(matches.items())})"
