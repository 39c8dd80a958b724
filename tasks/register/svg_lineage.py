"""The stages of a model as a picture: one SVG that needs nothing else, alone or inside a page. Every text is escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataops.snapshot import Manifest
from tasks.reports.page import text
from tasks.tracking.run_metadata import model_name

WIDTH, BOX, HIGH, GAP, ROW = 1212, 168, 92, 36, 150
_PLACES = {
    "source": (0, 0), "extract": (1, 0), "filter": (2, 0), "download": (3, 0), "curate": (4, 0), "pack": (5, 0),
    "train": (5, 1), "evaluate": (4, 1), "suite": (4, 2), "register": (3, 1),
}  # fmt: skip
"""Column and row of each box: data from left to right, then down and back to the model."""
_ARROWS = (
    ("source", "extract"), ("extract", "filter"), ("filter", "download"), ("download", "curate"), ("curate", "pack"),
    ("pack", "train"), ("train", "evaluate"), ("suite", "evaluate"), ("evaluate", "register"),
)  # fmt: skip
_STYLE = (
    ".lineage text { font: 13px system-ui, sans-serif; fill: var(--ink, #1b2733); } .lineage .name { font-weight: 600; } "
    ".lineage .key { font: 11px ui-monospace, monospace; fill: var(--soft, #5b6875); } "
    ".lineage .soft { font-size: 12px; fill: var(--soft, #5b6875); } "
    ".lineage .box { fill: var(--ground, #fff); stroke: var(--line, #c3ccd6); } "
    ".lineage .outside { stroke-dasharray: 4 3; } "
    ".lineage .model { stroke: var(--kept, #1f6feb); stroke-width: 2; } "
    ".lineage .kept { fill: var(--kept, #1f6feb); } .lineage .gone { fill: var(--gone, #e9775f); } "
    ".lineage .arrow { fill: none; stroke: var(--soft, #5b6875); stroke-width: 1.4; }"
)


@dataclass(frozen=True)
class Box:
    """What one box says: its name, up to three lines, and how much of what came in was kept."""

    name: str
    lines: Sequence[str]
    kept: float | None = None
    style: str = ""


def boxes(manifests: Mapping[str, Manifest], model: str) -> dict[str, Box]:
    """The boxes of a model's stages, of the files that the first one read, and of the suite."""
    found = {stage: _box(manifest) for stage, manifest in manifests.items() if stage in _PLACES}
    if "extract" in manifests:
        count = sum(i.stage == "source" for i in manifests["extract"].inputs)
        kind = str(manifests["extract"].config.get("kind", ""))
        found["source"] = Box("sources", ("", f"{count:,} file{'s' * (count != 1)}", kind), style="outside")
    if "evaluate" in manifests:
        suite = next((i for i in manifests["evaluate"].inputs if i.stage == "suite"), None)
        tasks = len(manifests["evaluate"].facts.get("metrics", {}))
        if suite is not None:
            said = f"{tasks} task{'s' * (tasks != 1)}" if tasks else ""
            found["suite"] = Box("suite", (suite.digest[:16], suite.key[:22], said), style="outside")
    found["register"] = Box("model", ("", model[:22], ""), style="model")
    return found


def _box(manifest: Manifest) -> Box:
    counts, facts = manifest.counts, manifest.facts
    if manifest.stage == "train":
        return Box("train", (manifest.key, model_name(manifest.config)[:22], manifest.created_at[:10]))
    if manifest.stage == "evaluate":
        tasks = len(facts.get("metrics", {}))
        return Box("evaluate", (manifest.key, f"{counts.kept:,} examples", f"{tasks} tasks" if tasks else ""))
    lost = sum(counts.dropped.values())
    told = f"{lost:,} dropped" if lost else "none dropped"
    if taken := sum(i.stage == "takedown" for i in manifest.inputs):
        told += f", {taken} takedown{'s' * (taken != 1)}"
    share = counts.kept / counts.input if counts.input else None
    return Box(manifest.stage, (manifest.key, f"{counts.kept:,} pairs", told), share)


def graph_svg(manifests: Mapping[str, Manifest], model: str) -> str:
    """The picture.

    Args:
        manifests: by stage, as far as they are known.
        model: what the last box is called.
    """
    found = boxes(manifests, model)
    drawn = [_arrow(a, b) for a, b in _ARROWS if a in found and b in found]
    drawn += [_drawn(name, box) for name, box in found.items()]
    high = 2 * ROW + HIGH + 24
    marker = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 Z" class="soft" style="fill: var(--soft, #5b6875)"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lineage" viewBox="0 0 {WIDTH} {high}" width="{WIDTH}" role="img">'
        f"<title>stages from the sources to the model</title><style>{_STYLE}</style>{marker}{''.join(drawn)}</svg>"
    )


def _corner(name: str) -> tuple[float, float]:
    column, row = _PLACES[name]
    return 6 + column * (BOX + GAP), 10 + row * ROW


def _drawn(name: str, box: Box) -> str:
    x, y = _corner(name)
    parts = [f'<rect x="{x}" y="{y}" width="{BOX}" height="{HIGH}" rx="6" class="box {box.style}"/>']
    parts.append(f'<text x="{x + 12}" y="{y + 22}" class="name">{text(box.name)}</text>')
    for line, (said, style) in enumerate(zip(box.lines, ("key", "", "soft"), strict=True)):
        parts.append(f'<text x="{x + 12}" y="{y + 40 + 17 * line}" class="{style}">{text(said)}</text>')
    if box.kept is not None:
        wide = BOX - 24
        parts.append(f'<rect x="{x + 12}" y="{y + HIGH - 10}" width="{wide}" height="4" class="gone"/>')
        parts.append(f'<rect x="{x + 12}" y="{y + HIGH - 10}" width="{wide * box.kept:.1f}" height="4" class="kept"/>')
    return "".join(parts)


def _arrow(a: str, b: str) -> str:
    """From the side of one box to the near side of the other."""
    (ax, ay), (bx, by) = _corner(a), _corner(b)
    if ay == by:
        y = ay + HIGH / 2
        ends = (ax + BOX + 2, y, bx - 3, y) if ax < bx else (ax - 2, y, bx + BOX + 3, y)
    elif ay < by:
        ends = (ax + BOX / 2, ay + HIGH + 2, bx + BOX / 2, by - 3)
    else:
        ends = (ax + BOX / 2, ay - 2, bx + BOX / 2, by + HIGH + 3)
    return f'<path d="M{ends[0]:g} {ends[1]:g} L{ends[2]:g} {ends[3]:g}" class="arrow" marker-end="url(#tip)"/>'
