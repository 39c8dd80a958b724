"""The lineage of a model as a drawing: a box for each stage, with the sources, queries, config, code, suite and version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataops.facts import EvaluateFacts, FilterFacts, PackFacts, TrainFacts
from dataops.formatting import format_percent, format_quantity
from dataops.snapshot import Input, Manifest
from dataops.trace.sources import list_sources
from dataops.trace.training_datasets import TrainingDataset
from tasks.register.documents import Documents
from tasks.reports.svg_drawing import Drawing
from tasks.tracking.run_metadata import model_name

WIDTH = 1212
"""Width of the drawing, in its units."""
BOX_WIDTH, BOX_HEIGHT, GAP, ROW_HEIGHT = 168, 92, 36, 150
"""Size of a box, the gap between two columns, and the height from one row to the next."""
_POSITIONS = {
    "sources": (0, 0), "source-2": (0, 1), "source-3": (1, 1), "extract": (1, 0), "queries": (2, 1), "filter": (2, 0),
    "download": (3, 0), "curate": (4, 0),
    "pack": (5, 0), "code": (5, 2), "train": (5, 1), "suite": (4, 2), "evaluate": (4, 1), "config": (3, 2), "model": (3, 1),
}  # fmt: skip
"""Column and row of each box: data from left to right, then down and back to the model."""
_OTHERS = 3
"""Maximum number of boxes for pretrained weights and other datasets; the last one stands for all datasets without one."""
_ARROWS = (
    ("sources", "extract"), ("source-2", "extract"), ("source-3", "extract"), ("extract", "filter"),
    ("filter", "download"), ("download", "curate"), ("curate", "pack"),
    ("pack", "train"), ("train", "evaluate"), ("suite", "evaluate"), ("evaluate", "model"),
    ("queries", "filter"), ("code", "train"), ("config", "model"),
)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A box with a name and three lines."""

    name: str
    lines: Sequence[str]
    kept: float | None = None
    """Share (0 to 1) of its rows that a stage kept."""
    style: str = ""


def make_boxes(
    manifests: Mapping[str, Manifest],
    model: str,
    documents: Documents | None = None,
    datasets: Sequence[TrainingDataset] = (),
) -> dict[str, Box]:
    """Return the boxes of a model's stages, and of what they read, by name.

    Args:
        manifests: by stage, as far as they are known.
        model: its name.
        documents: of the registered version, if there is one.
        datasets: those of the training, if it has several.
    """
    documents = documents or Documents()
    found = {stage: _stage_box(manifest) for stage, manifest in manifests.items() if stage in _POSITIONS}
    if "extract" in manifests:
        found |= _source_boxes(manifests)
    if queries := find_queries(manifests):
        balance = FilterFacts.of(manifests["filter"]).balance
        lines = (
            queries.digest[:16],
            queries.key[:22],
            "" if balance is None else format_quantity(balance.queries, "query", "queries"),
        )
        found["queries"] = Box("queries", lines, style="outside")
    if "evaluate" in manifests:
        suite = next((i for i in manifests["evaluate"].inputs if i.stage == "suite"), None)
        count = len(EvaluateFacts.of(manifests["evaluate"]).metrics)
        if suite is not None:
            tasks = format_quantity(count, "task") if count else ""
            found["suite"] = Box("suite", (suite.digest[:16], suite.key[:22], tasks), style="outside")
    if "train" in manifests and (commit := manifests["train"].code.get("commit")):
        dirty = "with changes" if manifests["train"].code.get("dirty") else ""
        found["code"] = Box("code", (str(commit)[:16], "git commit", dirty), style="outside")
    if documents.config_hash:
        found["config"] = Box("config", (documents.config_hash, "config.json", ""), style="outside")
    version = f"version {documents.version}" if documents.version else ""
    found["model"] = Box("model", (version, model[:22], documents.registered), style="model")
    weights = _make_weight_boxes(manifests)
    shown = {name: found[name] for name in _POSITIONS if name in found}
    return shown | weights | _make_dataset_boxes(datasets, _OTHERS - len(weights))


def _make_weight_boxes(manifests: Mapping[str, Manifest]) -> dict[str, Box]:
    """Return the boxes of the pretrained weights that the training started from."""
    weights = TrainFacts.of(manifests["train"]).weights if "train" in manifests else []
    return {
        f"{one.tower} weights": Box(
            f"{one.tower} weights",
            (one.sha256[:16], _shorten(one.full_name), _shorten(one.license)),
            style="outside",
        )
        for one in weights[: _OTHERS - 1]
    }


def _shorten(text: str) -> str:
    """Return a text that fits into a box."""
    return text if len(text) <= 22 else f"{text[:21]}…"


def _make_dataset_boxes(datasets: Sequence[TrainingDataset], limit: int) -> dict[str, Box]:
    """Return at most `limit` boxes of the datasets that are not the run's own, by the keys of the datasets."""
    others = [one for one in datasets if not one.is_own]
    shown = others if len(others) <= limit else others[: limit - 1]
    boxes = {
        one.key: Box(
            "dataset",
            (
                one.key,
                "deleted" if one.manifest is None else format_quantity(one.manifest.counts.kept, "pair"),
                f"{format_percent(one.share)} of the samples",
            ),
            style="outside",
        )
        for one in shown
    }
    if rest := others[len(shown) :]:
        share = f"{format_percent(sum(one.share for one in rest))} of the samples"
        boxes["datasets"] = Box("datasets", ("", format_quantity(len(rest), "more dataset"), share), style="outside")
    return boxes


def _source_boxes(manifests: Mapping[str, Manifest]) -> dict[str, Box]:
    """Return a box for each source; of more sources than positions, the last box counts the further ones."""
    sources, positions = list_sources(manifests["extract"]), ("sources", "source-2", "source-3")
    pairs = PackFacts.of(manifests["pack"]).sources if "pack" in manifests else {}
    boxes: dict[str, Box] = {}
    for position, source in zip(positions, sources, strict=False):
        files = f"{format_quantity(source.files, 'file')}, {source.kind}"
        packed = f"{format_quantity(pairs[source.name], 'pair')} packed" if source.name in pairs else ""
        lines = (
            (source.name[:22], files, packed)
            if source.name
            else ("", format_quantity(source.files, "file"), source.kind)
        )
        boxes[position] = Box("source" if source.name else "sources", lines, style="outside")
    if (more := len(sources) - len(positions) + 1) > 1:
        files = format_quantity(sum(source.files for source in sources[len(positions) - 1 :]), "file")
        boxes[positions[-1]] = Box("sources", (f"{more} more sources", files, ""), style="outside")
    return boxes


def find_queries(manifests: Mapping[str, Manifest]) -> Input | None:
    """Return the list of queries over which the filter balanced the pairs, if it did."""
    if "filter" not in manifests or not manifests["filter"].config.get("balance"):
        return None
    return next((i for i in manifests["filter"].inputs if i.stage == "source" and i.key != "unsafe words"), None)


def _stage_box(manifest: Manifest) -> Box:
    counts = manifest.counts
    if manifest.stage == "train":
        return Box("train", (manifest.key, model_name(manifest.config)[:22], manifest.created_at[:10]))
    if manifest.stage == "evaluate":
        tasks = len(EvaluateFacts.of(manifest).metrics)
        return Box(
            "evaluate",
            (
                manifest.key,
                format_quantity(counts.kept, "example"),
                format_quantity(tasks, "task") if tasks else "",
            ),
        )
    dropped = sum(counts.dropped.values())
    line = f"{dropped:,} dropped" if dropped else "none dropped"
    if takedowns := sum(i.stage == "takedown" for i in manifest.inputs):
        line += f", {format_quantity(takedowns, 'takedown')}"
    share = counts.kept / counts.input if counts.input else None
    return Box(manifest.stage, (manifest.key, format_quantity(counts.kept, "pair"), line), share)


def draw_lineage(boxes: Mapping[str, Box], links: Mapping[str, str | None]) -> Drawing:
    """Draw the boxes of `make_boxes` with arrows between them.

    Args:
        boxes: by name.
        links: what a click on a box opens, by name.
    """
    others = [name for name in boxes if name not in _POSITIONS]
    positions = _POSITIONS | {name: (6, (1, 0, 2)[number]) for number, name in enumerate(others)}
    width = WIDTH + (BOX_WIDTH + GAP if others else 0)
    drawing = Drawing("lineage.svg", "lineage of the model", width, 2 * ROW_HEIGHT + BOX_HEIGHT + 24)
    for start, end in (*_ARROWS, *((name, "train") for name in others)):
        if start in boxes and end in boxes:
            _add_arrow(drawing, _corner(positions[start]), _corner(positions[end]))
    for name, box in boxes.items():
        _add_box(drawing, box, *_corner(positions[name]), links.get(name))
    return drawing


def _corner(position: tuple[int, int]) -> tuple[int, int]:
    column, row = position
    return 6 + column * (BOX_WIDTH + GAP), 10 + row * ROW_HEIGHT


def _add_box(drawing: Drawing, box: Box, x: int, y: int, href: str | None) -> None:
    style = f"box {box.style}".rstrip()
    drawing.add(
        "rect", x=x, y=y, width=BOX_WIDTH, height=BOX_HEIGHT, rx=6, class_=style, href=href, aria_label=box.name
    )
    drawing.add("text", box.name, x=x + 12, y=y + 22, class_="name link" if href else "name")
    for line, (text, style) in enumerate(zip(box.lines, ("key", None, "soft"), strict=True)):
        drawing.add("text", text, x=x + 12, y=y + 40 + 17 * line, class_=style)
    if box.kept is not None:
        width = BOX_WIDTH - 24
        for style, share in (("dropped", 1), ("kept", box.kept)):
            drawing.add("rect", x=x + 12, y=y + BOX_HEIGHT - 10, width=width * share, height=4, class_=style)


def _add_arrow(drawing: Drawing, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Add an arrow from the side of one box to the facing side of the other; both are given by their corners."""
    (ax, ay), (bx, by) = start, end
    if ay == by:
        y = ay + BOX_HEIGHT // 2
        ends = (ax + BOX_WIDTH + 2, y, bx - 3, y) if ax < bx else (ax - 2, y, bx + BOX_WIDTH + 3, y)
    else:
        x, other_x = ax + BOX_WIDTH // 2, bx + BOX_WIDTH // 2
        down = x, ay + BOX_HEIGHT + 2, other_x, by - 3
        ends = down if ay < by else (x, ay - 2, other_x, by + BOX_HEIGHT + 3)
    path = f"M{ends[0]} {ends[1]} L{ends[2]} {ends[3]}"
    drawing.add("path", d=path, class_="arrow", marker_end="url(#tip)")
