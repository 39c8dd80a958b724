"""Write docs/reference/columns.md from the schemas in dataops/schema.py."""

from collections.abc import Iterable

import pyarrow as pa

from dataops import plugins, schema
from docs.tools.markdown import format_table
from tasks.download.outcome import EVIDENCE

_INTRO = """# Columns

All stages write Parquet files (zstd). A stage keeps the columns that it reads and adds its own.
Kept rows are in `part-*.parquet`, dropped rows in `dropped-*.parquet` of the snapshot's folder,
`<store>/<stage>/<key>/`:

```python
import polars as pl

dropped = pl.read_parquet(".pairmill/store/filter/<key>/dropped-*.parquet")
print(dropped.group_by("drop_reason").len().sort("len", descending=True))
```

[Drop reasons](drop-reasons.md) has the meaning of each `drop_reason`.
"""


def render() -> str:
    """Return the page."""
    sections = [
        ("`extract`", "Columns of `extract`.", schema.PAIRS),
        ("`filter`", "`filter` adds these columns.", [*schema.LANGUAGE, *schema.BALANCE]),
        ("`download`", "`download` adds these columns.", schema.FETCH),
        ("`curate`", "`curate` adds these columns.", schema.INSPECTION),
        *(
            (
                f"`curate` with `[curate.{step.table}]`",
                f"With `[curate.{step.table}]`, `curate` adds these columns too, those of a score if it is computed.",
                [column.field for column in step.columns],
            )
            for step in plugins.load("steps").values()
            if step.columns
        ),
        (
            "`pack`",
            "`pack` adds no column. Its column `shard` is the training shard; that of `download` and `curate`\n"
            "is the raw shard. The JSON of each sample in a shard holds the same columns.",
            [],
        ),
        (
            "Further captions",
            "With `filter.captions_per_image` above 1 or `[curate.recaption]`, the rows have one more column from\n"
            "that stage on ([captions](../clean/captions.md)).",
            [schema.CAPTIONS],
        ),
        ("Dropped rows", "`dropped-*.parquet` of every stage adds these columns.", schema.DROP),
        (
            "Evidence of a download",
            "`evidence-*.parquet` of `download` has a row for each row that was tried. No digest covers these\n"
            "files, because they hold times and headers.",
            EVIDENCE,
        ),
    ]
    return "\n".join([_INTRO, *(_section(*section) for section in sections)])


def _section(heading: str, text: str, fields: Iterable[pa.Field]) -> str:
    meanings = schema.find_meanings()
    rows = [(f"`{field.name}`", f"`{field.type}`", meanings[field.name]) for field in fields]
    table = format_table(("column", "type", "meaning"), rows) if rows else ""
    return f"## {heading}\n\n{text}\n" + (f"\n{table}" if table else "")
