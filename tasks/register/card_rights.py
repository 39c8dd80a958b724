"""What a model card states of licences: those of the weights, of pretrained weights, and of the training pairs."""

from collections import Counter
from collections.abc import Sequence

from dataops.facts import PackFacts, TrainFacts
from dataops.rights.licenses import (
    ROW_TITLES,
    DeclaredLicense,
    list_rows,
    state_facts,
    state_weight_facts,
)
from dataops.rights.licenses import list_licenses as list_declared
from dataops.snapshot import Manifest
from tasks.reports.section import Section

NO_LICENSE = "Its owner has stated no licence for the weights."
LISTED = 12
"""Maximum number of licences in the table."""


def merge_counts(packs: Sequence[Manifest], kind: str) -> dict[str, int]:
    """Return the counts of a kind in the facts of datasets, summed, most frequent first; empty if one does not count it."""
    found: list[dict[str, int]] = [getattr(PackFacts.of(pack), kind) for pack in packs]
    if not all(found) or len(found) == 1:
        return found[0] if len(found) == 1 else {}
    merged = sum((Counter(counts) for counts in found), Counter[str]())
    return dict(sorted(merged.items(), key=lambda item: (-item[1], item[0])))


def count_pairs(packs: Sequence[Manifest]) -> int:
    """Return the number of pairs of all datasets."""
    return sum(pack.counts.kept for pack in packs)


def merge_licenses(packs: Sequence[Manifest]) -> list[DeclaredLicense]:
    """Return the declared licences of the pairs of all datasets; none if one of them does not count licences."""
    counts = merge_counts(packs, "licenses")
    return list_declared(counts, count_pairs(packs)) if counts else []


def list_licenses(packs: Sequence[Manifest]) -> list[Section]:
    """Return the table of the declared licences with their terms, if the datasets count them."""
    rows = list_rows(merge_licenses(packs), max(count_pairs(packs), 1))
    more = [f"And {len(rows) - LISTED:,} more licences; LICENSE has all."] if len(rows) > LISTED else []
    return [Section("Declared licences", more, ROW_TITLES, rows[:LISTED], numbers=(2, 3))] if rows else []


def list_rights(packs: Sequence[Manifest], license_: str, train: Manifest | None = None) -> list[str]:
    """Return what is known of the licences of the weights and of the data, and how to take data out."""
    first = f"Licence of the weights: {license_}." if license_ else NO_LICENSE
    sentences = [first]
    if weights := [] if train is None else TrainFacts.of(train).weights:
        stated = (f"{one.name}: {one.license or 'not stated'}" for one in weights)
        sentences.append(f"Licences of the pretrained weights in it: {', '.join(stated)}.")
        sentences += state_weight_facts((one.name, one.license) for one in weights)
    if licenses := merge_licenses(packs):
        kept = count_pairs(packs)
        licensed = kept - sum(one.pairs for one in licenses if not one.license)
        sentences.append(
            f"For {licensed:,} of {kept:,} training pairs a licence was declared beside the image or on its page."
        )
        sentences += state_facts(licenses, kept)
    sentences.append(
        "`pairmill trace` names the pairs that this model was trained on; `pairmill takedown` removes pairs from later "
        "models."
    )
    return sentences
