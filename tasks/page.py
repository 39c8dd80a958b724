"""The frame of the pages in an MLflow run: one HTML file each that needs nothing else."""

import html
from collections.abc import Iterable

from dataops.escaping import visible

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b2733; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.note { color: #5b6875; margin: .2rem 0 .8rem; } .columns { display: flex; gap: 2.5rem; flex-wrap: wrap; }
.columns > div { flex: 1 1 26rem; min-width: 0; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .2rem .6rem .2rem 0; text-align: left; }
th { color: #5b6875; font-weight: 500; border-bottom: 1px solid #dfe4ea; } td.n, th.n { text-align: right;
font-variant-numeric: tabular-nums; white-space: nowrap; } td { overflow-wrap: anywhere; vertical-align: top; }
td.bar { width: 30%; } td.bar div { background: #1f6feb; height: .7rem; border-radius: 2px; }
td.bar div.gone { background: #e9775f; } img { max-width: 100%; } q { color: #3b4754; } code { font-size: .9em; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Were an escape ever missing, nothing would run or be fetched."""


def page(title: str, sections: Iterable[str]) -> str:
    """A page of sections that are HTML already."""
    head = f'<meta charset="utf-8"><meta http-equiv=Content-Security-Policy content="{_POLICY}">'
    head += f"<title>{text(title)}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(sections)}</body></html>\n'


def text(value: object) -> str:
    """A value as text of a page or of an attribute in quotes, control characters spelt out."""
    return html.escape(visible(str(value)), quote=True)
