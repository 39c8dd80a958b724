"""The pages of `pairmill browse`. Templates escape every value; no text of the dataset becomes markup or a link."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from dataops.errors import ConfigError
from dataops.redaction import escape_for_display
from dataops.schema import find_meanings
from dataops.stages import PAIR_STAGES
from dataops.trace.sources import offset_unit
from plugins.browse.address import Address, parse_offset, parse_whole
from plugins.browse.database import QueryFailed
from plugins.browse.filters import OPERATORS, VALUELESS, Filter, kind_of
from plugins.browse.images import image_holder
from plugins.browse.meaning import Meaning
from plugins.browse.record import read_page
from plugins.browse.rows import (
    CLUSTERS,
    MAX_OFFSET,
    PAGE_ROWS,
    Bin,
    cluster_views,
    count_values,
    fetch_row,
    list_clusters,
)
from plugins.browse.site import Site
from plugins.browse.views import ROW, Dataset, View
from tasks.reports.page import encode_page, render

Page = Callable[[Site, Request], Response]
MAX_ROW = 2**63 - 1
TABS = (("/", "Rows"), ("/meaning", "Search by meaning"), ("/clusters", "Duplicates"), ("/funnel", "Stages"))


def respond(site: Site, template: str, path: str, title: str, status: int = 200, **values: Any) -> Response:
    """Return a page."""
    manifest = site.dataset.manifest
    frame = {
        "title": f"{title}: {manifest.stage} {manifest.key}",
        "heading": title,
        "path": path,
        "tabs": TABS,
        "dataset": f"{manifest.stage}/{manifest.key}",
        "dataset_rows": manifest.counts.kept,
        "store": escape_for_display(site.store.uri),
    }
    return HTMLResponse(encode_page(render(f"browse/{template}", **frame, **values)), status)


def list_page(site: Site, request: Request) -> Response:
    """Show rows with their images, filters and the values of a column."""
    address = Address.parse(request.query_params)
    query, message = address.query(site), ""
    view = query.selection.view
    found, values = None, None
    try:
        found = site.find(query, address.o)
        if address.values:
            values = _values(address, count_values(site.database, query.selection, address.values), view)
    except (ConfigError, QueryFailed) as error:
        message = str(error)
    meaning = site.meaning() if view.label == site.dataset.main and image_holder(site.dataset, view) else None
    rows = [] if found is None else [_card(site.dataset, view, row, found.scores) for row in found.rows]
    total = 0 if found is None else found.total
    return respond(
        site, "rows.html", "/", "Rows",
        address=address, view=view.label, views=_views(site), total=total, rows=rows, message=message, values=values,
        first=address.o + 1, last=address.o + len(rows), following=address.o + PAGE_ROWS, page_rows=PAGE_ROWS,
        has_more=address.o + PAGE_ROWS < min(total, MAX_OFFSET), previous=max(0, address.o - PAGE_ROWS),
        filters=[(str(one), _describe(one, view)) for one in query.selection.filters],
        columns=[(name, kind_of(type_), find_meanings().get(name, "")) for name, type_ in view.columns.items()],
        operators=[(kind, [(one, name) for one, (name, _) in found.items()]) for kind, found in OPERATORS.items()],
        sort=query.selection.sort, descending=query.selection.descending, has_meaning=meaning is not None,
        model=meaning.model.name.removeprefix("models:/") if meaning else "", hides_rows=view.hides_rows,
        features=_progress(meaning) if meaning and query.like else None,
    )  # fmt: skip


def _progress(meaning: Meaning) -> dict[str, Any] | None:
    """Return how many images have a feature, so that an image may be found; None if all have."""
    done, total = meaning.coverage()
    return None if done == total else {"done": done, "all": total, "running": meaning.progress.running}


def _views(site: Site) -> list[tuple[str, str]]:
    """Return the label of each view with its number of rows."""
    found = []
    for label in site.dataset.labels:
        stage, side = label.split(".")
        counts = site.dataset.stages[stage].counts
        rows = counts.kept if side == "kept" else sum(counts.dropped.values())
        found.append((label, f"{stage}: {side} ({rows:,})"))
    return found


def _describe(one: Filter, view: View) -> str:
    name, _ = OPERATORS[kind_of(view.columns[one.column])][one.operator]
    return f"{one.column} {name}" if one.operator in VALUELESS else f"{one.column} {name} {one.value}"


def _card(dataset: Dataset, view: View, row: Mapping[str, Any], scores: Mapping[int, float]) -> dict[str, Any]:
    number = row[ROW]
    where = f"rows={view.label}&row={number}"
    has_image = image_holder(dataset, view) is not None and row.get("shard")
    facts = []
    if number in scores:
        facts.append(f"similarity {scores[number]:.3f}")
    if row.get("original_width"):
        facts.append(f"{row['original_width']:,} × {row['original_height']:,}")
    if row.get("language"):
        facts.append(str(row["language"]))
    if row.get("clip_score") is not None:
        facts.append(f"CLIP score {row['clip_score']:.2f}")
    return {
        "number": number,
        "uid": row.get("uid"),
        "page": f"/row?{where}",
        "image": f"/image?{where}&size=small" if has_image else "",
        "caption": row.get("caption"),
        "url": row.get("url"),
        "facts": facts,
        "drop_reason": row.get("drop_reason"),
        "error": row.get("error_message"),
        "similar": f"/?like={number}" if view.label == dataset.main else "",
    }


def _values(address: Address, bins: Sequence[Bin], view: View) -> dict[str, Any]:
    """Return the values of a column, each with the URL that selects it."""
    column = address.values
    kind, most, shown = kind_of(view.columns[column]), max((one.rows for one in bins), default=0), []
    for one in bins:
        if one.low is not None and one.high is not None:
            label, filters = (
                f"{one.low:,.4g} to {one.high:,.4g}",
                (f"{column}~min~{one.low!r}", f"{column}~max~{one.high!r}"),
            )
        elif one.value is None:
            label, filters = "no value", (f"{column}~none~",)
        else:
            operator = "has" if kind == "list" else "is"
            label, filters = str(one.value), (f"{column}~{operator}~{one.value}",)
        shown.append(
            {"label": label, "rows": one.rows, "share": one.rows / most if most else 0,
             "link": address.link(f=(*address.f, *filters))}
        )  # fmt: skip
    return {"column": column, "meaning": find_meanings().get(column, ""), "bins": shown}


def row_page(site: Site, request: Request) -> Response:
    """Show one row with all its columns, its image, and what can be done with it."""
    view, row, number = find_row(site, request)
    card = _card(site.dataset, view, row, {})
    cells = [(name, _text(row[name]), find_meanings().get(name, "")) for name in view.columns]
    targets = [
        (kind, str(row[column]))
        for kind, column in (("uid", "uid"), ("sha256", "sha256"), ("url", "url"))
        if row.get(column)
    ]
    host = urlsplit(str(row.get("url") or "")).hostname if _is_web(row.get("url")) else None
    origin = ""
    if row.get("source"):
        unit, at = offset_unit(row.get("extracted_with")), row.get("source_offset")
        origin = str(row["source"]) + (f" at {unit} {at:,}" if at is not None else "")
    return respond(
        site, "row.html", "/row", "Row", origin=origin,
        record=f"/record?rows={view.label}&row={number}" if site.sources.find(row) else "",
        card=card, cells=cells, view=view.label, number=number,
        targets=[*targets, *([("domain", host)] if host else [])],
        links=[(name, str(row[name])) for name in ("page_url", "url") if _is_web(row.get(name))],
        large=card["image"].replace("size=small", "size=large"), similar=card["similar"],
    )  # fmt: skip


def record_page(site: Site, request: Request) -> Response:
    """Show the archived record from which a row was extracted."""
    view, row, number = find_row(site, request)
    if (file := site.sources.find(row)) is None:
        raise ConfigError(f"{row.get('source')} is no archive of a run of this machine")
    return respond(
        site, "record.html", "/record", "Archived record", source=row["source"], offset=row["source_offset"],
        row=f"/row?rows={view.label}&row={number}", page=read_page(file, row), hidden=view.hides_rows,
    )  # fmt: skip


def find_row(site: Site, request: Request, columns: Sequence[str] = ()) -> tuple[View, dict[str, Any], int]:
    """Return the row that a URL names, with all columns or some.

    Raises: ConfigError if there is none, or a takedown removed it.
    """
    parameters = request.query_params
    view = site.dataset.view(parameters.get("rows") or site.dataset.main)
    number = parse_whole(parameters.get("row", ""), "row", MAX_ROW)
    row = fetch_row(site.database, view, number, columns)
    if row is None:
        raise ConfigError("there is no such row, or a takedown removed it")
    return view, row, number


def _text(value: Any) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_web(url: object) -> bool:
    """Return whether a URL may be a link: `javascript:` and `data:` URLs are text."""
    try:
        parts = urlsplit(str(url or ""))
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def clusters_page(site: Site, request: Request) -> Response:
    """Show clusters of duplicates, largest first."""
    offset, views = parse_offset(request.query_params), cluster_views(site.dataset)
    number, clusters = list_clusters(site.database, views, offset)
    shown = [
        {
            "name": cluster.name,
            "size": cluster.size,
            "more": cluster.size - len(cluster.members),
            "members": [_card(site.dataset, view, row, {}) for view, row in cluster.members],
        }
        for cluster in clusters
    ]
    return respond(
        site, "clusters.html", "/clusters", "Duplicates",
        number=number, clusters=shown, offset=offset, step=CLUSTERS, has_columns=bool(views),
    )  # fmt: skip


def meaning_page(site: Site, request: Request) -> Response:
    """Show how many images have a feature, and compute missing features."""
    meaning, view = site.meaning(), site.dataset.view(site.dataset.main)
    has_images = image_holder(site.dataset, view) is not None
    done, total = meaning.coverage() if meaning and has_images else (0, site.dataset.manifest.counts.kept)
    progress = meaning.progress if meaning else None
    return respond(
        site, "meaning.html", "/meaning", "Search by meaning",
        model=meaning.model.name if meaning else "", has_meaning=meaning is not None, has_images=has_images,
        done=done, all=total, running=bool(progress and progress.running), error=progress.error if progress else "",
    )  # fmt: skip


def funnel_page(site: Site, request: Request) -> Response:
    """Show how many rows each stage kept and dropped, and why."""
    stages = [site.dataset.stages[stage] for stage in PAIR_STAGES if stage in site.dataset.stages]
    shown = [
        {
            "stage": manifest.stage,
            "key": manifest.key,
            "input": manifest.counts.input,
            "kept": manifest.counts.kept,
            "reasons": [
                (reason, count, Address(rows=f"{manifest.stage}.dropped", f=(f"drop_reason~is~{reason}",)).link())
                for reason, count in sorted(manifest.counts.dropped.items(), key=lambda item: -item[1])
            ],
            "kept_link": Address(rows=f"{manifest.stage}.kept").link(),
        }
        for manifest in stages
    ]
    missing = len(PAIR_STAGES[: PAIR_STAGES.index(site.dataset.manifest.stage) + 1]) - len(stages)
    return respond(site, "funnel.html", "/funnel", "Stages", stages=shown, missing=missing)


def error_page(site: Site, status: int, message: str) -> Response:
    """Show why a page cannot be shown."""
    return respond(site, "error.html", "", "Not shown", status, message=message)
