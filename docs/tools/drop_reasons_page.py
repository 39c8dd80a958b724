"""Write docs/reference/drop-reasons.md from the drop reasons of all stages."""

from dataops import plugins
from dataops.filters import Rule
from dataops.reasons import Reason
from dataops.schema import DropReason
from docs.tools.markdown import format_table
from tasks.filter.added_steps import AFTER_RULES, BALANCING, AddedStep
from tasks.reports.drop_reasons import DROP_REASONS

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


def describe_reasons() -> dict[str, DropReason]:
    """Return the drop reasons of filter in the order in which it applies them; NAME stands for what varies."""
    rules: list[Rule] = list(plugins.load("rules").values())
    steps: list[AddedStep] = list(plugins.load("filter_steps").values())
    added = {step.reason: step.description for step in steps}
    return {rule.reason: rule.description for rule in rules} | AFTER_RULES | added | BALANCING


STATUSES = {
    "success": "The image is in the shard.",
    "failed_to_download": "No bytes of an image arrived.",
    "failed_to_resize": "The bytes arrived, but are no image that can be decoded and resized.",
}
"""Values of the column `status`."""


DAMAGES = {
    "bad_record": "The record's header or its compressed data cannot be read.",
    "bad_length": "The record is longer or shorter than it declares.",
    Reason.TRUNCATED: "The file ends within the record.",
    Reason.TOO_LARGE: "The record is larger than the limit.",
    "page_too_large": "The page is larger than `source.max_page_bytes`.",
    Reason.TOO_COMPLEX: "The page needs too much time or memory to parse.",
    "too_many_images": "The page has more images than the limit; the first ones were read.",
    "bad_http": "The record holds no valid HTTP response.",
    "bad_encoding": "The body does not match its Content-Encoding.",
    "bad_page_url": "The URL of the page cannot be parsed.",
    "bad_json": "The record or the row is not valid JSON.",
    "odd_json": "A WAT record is not quite valid JSON; what could be read was used.",
    "bad_quotes": "A row of a CSV file has misplaced quotation marks.",
    "field_too_long": "A field of a row is longer than the limit.",
    "line_too_long": "A line is longer than the limit.",
    "wrong_fields": "A row has more or fewer fields than the header.",
    "not_utf8": "A URL or a caption is not valid UTF-8.",
    "not_an_object": "A line of JSON is not an object.",
    "url_not_text": "The URL is not text.",
    "caption_not_text": "The caption is not text.",
}
"""Reasons for which `extract` counts a record or a row of a source as damaged."""
