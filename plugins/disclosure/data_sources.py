"""Answers to sections 2.1, 2.2, 2.4 and 2.6 of the template: the sources of the pairs.

A crawl of Common Crawl is public, and a crawl of a site is the provider's own. For other kinds of source the manifests do
not have whether they are public, licensed or private; the provider states it by `[summary.sources.NAME]`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataops.facts import PackFacts
from dataops.facts import SourceFacts as SourceSummary
from dataops.formatting import format_quantity, format_share
from dataops.trace.sources import list_sources
from plugins.disclosure.answers import Answer, Answers, answer, fill, leave_open
from plugins.disclosure.provider_facts import ProviderFacts, SourceFacts, SourceKind
from plugins.disclosure.subject import Chain

COMMON_CRAWL = "https://commoncrawl.org/"
LARGE = "A dataset is large if it has more than 3% of the data of its modality in all publicly available datasets."
_COLUMNS = ("source", "dataset", "link", "period", "pairs", "share of all pairs")


@dataclass(frozen=True)
class DataSource:
    """A source of the pairs of one dataset."""

    label: str
    """Its name, or its kind if it has none."""
    summary: SourceSummary
    config: Mapping[str, Any]
    pairs: int
    kind: SourceKind | None
    """None: neither the manifest nor the provider classifies it."""
    facts: SourceFacts | None
    has_images: bool
    """Whether its images were taken from its archives, without a request."""

    def describe(self, all_pairs: int) -> tuple[str, ...]:
        """Return its row in a table."""
        facts, crawls = self.facts, ", ".join(self.config.get("crawl", []))
        is_common_crawl = self.summary.kind == "common_crawl"
        name = facts.name if facts and facts.name else f"Common Crawl, {crawls}" if is_common_crawl else "not stated"
        link = facts.url if facts and facts.url else COMMON_CRAWL if is_common_crawl else "not stated"
        period = facts.period if facts and facts.period else crawls if is_common_crawl else "not known"
        return self.label, name, link, period, f"{self.pairs:,}", format_share(self.pairs, max(all_pairs, 1))


def list_data_sources(chains: Sequence[Chain], facts: ProviderFacts) -> list[DataSource]:
    """Return the sources of datasets. A source whose manifest is no longer known is in the list without a kind."""
    found: list[DataSource] = []
    for chain in chains:
        extract, download = chain.find("extract"), chain.find("download")
        if extract is None:
            label = f"pack/{chain.pack.key}"
            stated = facts.sources.get(label)
            kind = stated.kind if stated else None
            summary = SourceSummary(kind="no longer known")
            found.append(DataSource(label, summary, {}, chain.pairs, kind, stated, has_images=False))
            continue
        images = download.config.get("images") if download is not None else None
        tables = {str(one.get("name", "")): one for one in extract.config.get("sources", [extract.config])}
        for summary in list_sources(extract):
            label = summary.name or summary.kind
            stated = facts.sources.get(label)
            pairs = PackFacts.of(chain.pack).sources.get(summary.name, 0) if summary.name else chain.pairs
            kind = summary.provenance or (stated.kind if stated else None)
            own = download.config.get("own_images", {}) if download is not None else {}
            has_images = label in own or images == "archive" or (isinstance(images, Mapping) and summary.name in images)
            config = tables.get(summary.name, {})
            found.append(DataSource(label, summary, config, pairs, kind, stated, has_images))
    return found


def answer_sources(sources: Sequence[DataSource], pairs: int) -> Answers:
    """Return the answers to the sections on sources."""
    unknown = [source.label for source in sources if source.kind is None] if sources else ["all"]

    def of(kind: SourceKind) -> list[DataSource]:
        return [source for source in sources if source.kind == kind]

    def ask(kind: SourceKind) -> Answer:
        if found := of(kind):
            return answer(True, f"Sources: {', '.join(dict.fromkeys(source.label for source in found))}.")
        return _ask_for(unknown) if unknown else answer(False, "Each source of the lineage has another kind.")

    public = of("public")
    rows = [source.describe(pairs) for source in public]
    described = [f"{one.label}: {one.facts.description}" for one in public if one.facts and one.facts.description]
    return {
        "public_used": ask("public"),
        "public_modalities": _cover(public),
        "public_list": fill(LARGE, *_select(public), *described, columns=_COLUMNS, rows=rows)
        if public
        else leave_open(),
        "public_others": fill("None: the list has all, also those that are not large.") if public else leave_open(),
        "public_comments": leave_open(),
        "licensed_used": ask("licensed"),
        "licensed_modalities": _cover(of("licensed")),
        "private_used": ask("private"),
        "private_modalities": _cover(of("private")),
        "private_known": _list(of("private"), pairs, lambda source: bool(source.facts and source.facts.name)),
        "private_others": _list(of("private"), pairs, lambda source: not (source.facts and source.facts.name)),
        "private_comments": leave_open(),
        "user_model_used": leave_open() if of("user") else ask("user"),
        "user_services_used": leave_open() if of("user") else ask("user"),
        "user_services": _list(of("user"), pairs, lambda _: True),
        "user_modalities": _cover(of("user")),
        "user_comments": leave_open(),
        "other_used": ask("other"),
        "other_description": _list(of("other"), pairs, lambda _: True),
        "other_comments": leave_open(),
    }


def _ask_for(labels: Sequence[str]) -> Answer:
    keys = ", ".join(f"`[summary.sources.{label}]`" for label in dict.fromkeys(labels))
    return leave_open(
        f"The lineage does not have what the following sources are. State it by `kind` in {keys}: public, licensed, "
        "private, crawl, user or other."
    )


def _cover(sources: Sequence[DataSource]) -> Answer:
    if not sources:
        return leave_open()
    with_images = [source.label for source in sources if source.has_images]
    if not with_images:
        return fill("Text: captions, and URLs of images. The images were requested from their hosts (section 2.3).")
    return fill(f"Text: captions, and URLs of images. Images: from the archives of {', '.join(with_images)}.")


def _select(sources: Sequence[DataSource]) -> list[str]:
    """Return how part of each public dataset was selected."""
    return [
        f"Of each crawl of `{source.label}`, {format_quantity(int(source.config['num_files']), 'file')} were read, chosen "
        f"at random (seed {source.config.get('sample_seed', 0)}); of their pairs, those that section 3.3 counts."
        for source in sources
        if source.config.get("num_files")
    ]


def _list(sources: Sequence[DataSource], pairs: int, is_listed: Callable[[DataSource], bool]) -> Answer:
    listed = [source for source in sources if is_listed(source)]
    if not listed:
        return fill("None.") if sources else leave_open()
    texts = (source.facts.description for source in listed if source.facts and source.facts.description)
    return fill(*texts, columns=_COLUMNS, rows=[source.describe(pairs) for source in listed])
