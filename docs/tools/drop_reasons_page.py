"""Write docs/reference/drop-reasons.md from the drop reasons of all stages."""

from docs.tools.markdown import format_table
from tasks.filter.added_steps import describe_reasons
from tasks.reports.drop_reasons import DAMAGES, DROP_REASONS, STATUSES

_INTRO = """# Drop reasons

Each dropped row is in `dropped-*.parquet` of its stage with a `drop_reason`: the first that holds.
`pairmill show RUN` prints the counts, and `pairmill trace URL` the reason of one row.
Words in capitals stand for what varies: NNN (a status), NAME (a pattern), SCORE (a score).
Kept and dropped rows together are the rows that the stage read.
"""


def render() -> str:
    """Return the page."""
    before, *after = DROP_REASONS.items()
    sections = [
        f"## `{stage}`\n\n"
        + format_table(
            ("drop_reason", "meaning", "what to do"),
            [(f"`{name}`", reason.meaning, reason.remedy) for name, reason in reasons.items()],
        )
        for stage, reasons in (before, ("filter", describe_reasons()), *after)
    ]
    statuses = "## Status of a download\n\nThe column `status` has the values of img2dataset.\n\n" + format_table(
        ("status", "meaning"), [(f"`{name}`", meaning) for name, meaning in STATUSES.items()]
    )
    damages = (
        "## Damaged records of a source\n\n"
        "A record or a row of a source that cannot be read is not a pair, so it is no dropped row.\n"
        "`extract` counts it in its manifest (`damages`), with the position of the first ones.\n\n"
        + format_table(("damage", "meaning"), [(f"`{name}`", meaning) for name, meaning in DAMAGES.items()])
    )
    return "\n".join([_INTRO, *sections, statuses, damages])
