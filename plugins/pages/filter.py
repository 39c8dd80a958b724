"""The page of a snapshot of the stage `filter`: what each step dropped, and the remaining pairs."""

from collections.abc import Iterator

from dataops.facts import FilterFacts
from dataops.snapshot import Manifest
from dataops.store import Store
from tasks.filter.added_steps import BALANCED, BOILERPLATE, DUPLICATE, LANGUAGE, NO_QUERY, SEEN
from tasks.filter.summary import LENGTH_STEP, LENGTH_STEPS
from tasks.reports.page import label_steps, render

STEPS = (
    ("language", (LANGUAGE,)),
    ("boilerplate", (BOILERPLATE,)),
    ("seen before", (SEEN,)),
    ("duplicates", (DUPLICATE,)),
    ("balance", (NO_QUERY, BALANCED)),
)
"""The steps after the rules, in their order, and how their reasons begin."""
CURVE_ROWS = 12


def render_filter(manifest: Manifest, store: Store) -> str:
    """Return the page of a snapshot of the stage `filter`, for MLflow and `pairmill show --page`."""
    facts = FilterFacts.of(manifest)
    return render(
        "filter.html",
        title=f"Filter {manifest.key}",
        counts=manifest.counts,
        steps=_steps(manifest),
        reasons=list(_reasons(manifest)),
        most_dropped=max(manifest.counts.dropped.values(), default=1),
        languages=facts.languages,
        lengths=label_steps(facts.lengths, LENGTH_STEP, LENGTH_STEPS),
        balance=facts.balance,
        config=manifest.config.get("balance") or {},
        curve=facts.balance.curve[:: max(len(facts.balance.curve) // CURVE_ROWS, 1)] if facts.balance else [],
        hosts=facts.hosts,
        captions=facts.captions,
    )


def _steps(manifest: Manifest) -> list[dict[str, object]]:
    """Return the steps that dropped pairs: name, number of pairs dropped and left."""
    dropped = dict.fromkeys(["rules", *(name for name, _ in STEPS)], 0)
    for reason, count in manifest.counts.dropped.items():
        dropped[next((name for name, prefixes in STEPS if reason.startswith(prefixes)), "rules")] += count
    left = manifest.counts.input
    steps = []
    for name, count in dropped.items():
        left -= count
        steps += [{"name": name, "dropped": count, "left": left}] if count else []
    return steps


def _reasons(manifest: Manifest) -> Iterator[dict[str, object]]:
    """Yield each reason with the pairs that it dropped, all pairs that its rule holds for, and examples."""
    facts, dropped = FilterFacts.of(manifest), manifest.counts.dropped
    for name in sorted({*dropped, *facts.alone}, key=lambda name: (-dropped.get(name, 0), name)):
        if dropped.get(name, 0) or facts.alone.get(name):
            row = {"dropped": dropped.get(name, 0), "alone": facts.alone.get(name)}
            yield {"name": name, **row, "examples": facts.examples.get(name, [])}
