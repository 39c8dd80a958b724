"""The generated reference pages: the committed text is that of the code, and nothing lacks a meaning."""

import ast
import re

from dataops import schema
from dataops.home import CHECKOUT
from dataops.reasons import Reason
from tasks.download.outcome import EVIDENCE
from tasks.filter.added_steps import describe_reasons
from tasks.filter.steps import DROP_REASONS as FILTER_HASHES
from tasks.reports.drop_reasons import DAMAGES, find_reason

_TAKES_REASON = {
    "FetchError": "download",
    "ImageRefused": "curate",
    "BadUrl": "extract",
    "_with_reason": "curate",
    "Damage": "damage",
    "BadBody": "damage",
    "BadPage": "damage",
    "add_damage": "damage",
}
"""Functions and classes whose string argument is a drop reason or a damage."""
_NO_ROWS = {("download", name) for name in ("redirect", "bad_answer", "unreadable", "not_encrypted")}
"""Errors of files of sources and hosts, which are no rows, and of images that a model captions, which drop no row."""


def test_each_column_has_a_meaning_and_each_meaning_a_column():
    columns = {field.name for field in [*schema.CURATED, schema.CAPTIONS, *schema.DROP, *EVIDENCE]}
    assert columns == set(schema.MEANINGS)


def test_each_reason_that_the_code_gives_is_described():
    found: set[tuple[str, str]] = set()
    assert set(FILTER_HASHES) <= set(describe_reasons())
    for path in [*(CHECKOUT / "tasks").rglob("*.py"), *(CHECKOUT / "dataops").rglob("*.py")]:
        source = path.read_text(encoding="utf-8")
        calls = ast.walk(ast.parse(source)) if any(f"{name}(" in source for name in _TAKES_REASON) else ()
        for call in calls:
            if isinstance(call, ast.Call):
                name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
                texts = {argument.value for argument in call.args if isinstance(argument, ast.Constant)}
                shared = [one.attr for one in call.args if isinstance(one, ast.Attribute) and one.attr.isupper()]
                texts |= {getattr(Reason, name, None) for name in shared}
                names = {str(text) for text in texts if re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", str(text))}
                found |= {(_TAKES_REASON[name], text) for text in names} if name in _TAKES_REASON else set()
    assert {("download", "timeout"), ("curate", "corrupt"), ("damage", "bad_record")} <= found

    def is_known(stage: str, name: str) -> bool:
        # The download and curate decode images with the same code.
        described = find_reason(stage, name) or (find_reason("download", name) if stage == "curate" else None)
        return name in DAMAGES if stage == "damage" else described is not None

    assert {reason for reason in found - _NO_ROWS if not is_known(*reason)} == set()
