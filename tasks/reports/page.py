"""The frame of the pages that tell of a stage, one HTML file each that needs nothing else; and what several show."""

import html
from collections.abc import Iterable, Mapping

from dataops.escaping import visible

POLICY = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
"""Were an escape ever missing, nothing would run or be fetched."""
STYLE = """
:root { color-scheme: light dark; --ink: #1b2733; --soft: #5b6875; --line: #dfe4ea; --ground: #fff; --kept: #1f6feb;
  --gone: #e9775f; }
@media (prefers-color-scheme: dark) { :root { --ink: #dde4ec; --soft: #98a5b3; --line: #36414d; --ground: #14191f;
  --kept: #4c8ff0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 64rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
p.note { color: var(--soft); margin: .2rem 0 .8rem; } .columns { display: flex; gap: 0 2.5rem; flex-wrap: wrap; }
.columns > div { flex: 1 1 22rem; min-width: 0; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; }
th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); }
td { overflow-wrap: anywhere; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; width: 1%; overflow-wrap: normal; }
td.bar { width: 32%; padding-right: .8rem; vertical-align: middle; } td.bar div { background: var(--kept); height: .7rem;
  border-radius: 2px; min-width: 1px; } td.bar div.gone { background: var(--gone); }
tr.examples td { color: var(--soft); padding: 0 0 .5rem 1rem; font-size: .9em; } td.name { white-space: nowrap; }
svg { display: block; max-width: 100%; height: auto; } code { font-size: .92em; } img { max-width: 100%; }
q { color: var(--soft); }
"""


def page(title: str, sections: Iterable[str], *, pictures: bool = False) -> str:
    """A page of sections that are HTML already, with `pictures` in data: addresses or without any."""
    policy = POLICY.replace("'unsafe-inline'", "'unsafe-inline'; img-src data:") if pictures else POLICY
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{policy}{view}<title>{text(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(sections)}</body></html>\n'


def text(value: object) -> str:
    """A value as text of a page or of an attribute in quotes; control characters are spelt out."""
    return html.escape(visible(str(value)), quote=True)


def ranking(title: str, what: str, counted: Mapping[str, int], shown: int = 20) -> str:
    """A table of how many pairs there are of each value, in the order of the mapping, with bars."""
    most = max(counted.values(), default=1)
    rows = [
        f"<tr><td>{text(name) or '<i>none</i>'}</td><td class=n>{number:,}</td>{bar(number, most)}</tr>"
        for name, number in list(counted.items())[:shown]
    ]
    more = f"<p class=note>and {len(counted) - shown:,} more</p>" if len(counted) > shown else ""
    return f"<h2>{title}</h2><table><tr><th>{what}<th class=n>pairs<th></tr>{''.join(rows)}</table>{more}"


def bar(value: float, most: float, style: str = "") -> str:
    """A cell of a table with a bar."""
    named = f' class="{style}"' if style else ""
    return f'<td class=bar><div{named} style="width:{100 * value / (most or 1):.1f}%"></div></td>'


def short(value: object, most: int = 90) -> str:
    """The beginning of a value, as text of a page."""
    said = "" if value is None else str(value)
    return text(said if len(said) <= most else said[: most - 1] + "…")
