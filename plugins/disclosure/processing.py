"""Answers to sections 2.5 and 3 of the template: synthetic data, reservations of rights, illegal content, processing."""

from collections import Counter
from collections.abc import Iterator, Sequence

from dataops.facts import CurateFacts, PackFacts, funnel_stages
from dataops.formatting import format_counts, format_quantity
from dataops.rights.robots_txt import ROBOTS_AI_AGENTS
from dataops.snapshot import Manifest
from plugins.disclosure.answers import Answer, Answers, answer, fill, leave_open
from plugins.disclosure.data_sources import DataSource
from plugins.disclosure.subject import Chain, Subject
from tasks.curate.step import describe_steps
from tasks.lists.locations import OPT_OUT_LIST
from tasks.pack.summary import FURTHER_CAPTIONS
from tasks.register.card import merge_counts

SYNTHETIC = "synthetic"
RESERVED = ("opt_out", "robots", "payment_required", "license")
"""Drop reasons for a reservation of rights, or a missing permission."""
_MARKET = (
    "Whether each of them is a general-purpose AI model on the market, and where its summary is, is not in the lineage."
)
_PERSONAL = {
    "drop": "Captions with an e-mail address, a URL, a telephone number or a street address were dropped.",
    "mask": "E-mail addresses, URLs, telephone numbers and street addresses in captions were masked.",
}


def answer_synthetic(subject: Subject) -> Answers:
    """Return the answers to section 2.5."""
    sentences, models, modalities = list[str](), list[str](), list[str]()
    for chain in subject.chains:
        if found := describe_steps(chain.find("curate")):
            sentences += found
            models.append(str(CurateFacts.of(chain.ancestors["curate"]).further["recaption"]["model"]))
    counted = [merge_counts(subject.packs, kind).get(SYNTHETIC, 0) for kind in ("caption_sources", FURTHER_CAPTIONS)]
    if sum(counted):
        sentences.append(f"{format_quantity(sum(counted), 'caption')} of the training data are synthetic.")
        modalities.append("Text (captions)")
    if subject.weights:
        names = ", ".join(one.name for one in subject.weights)
        sentences.append(
            f"The towers {names} started from weights that others trained (section 1.2). No data were generated with them."
        )
    is_used = bool(modalities)
    if not is_used and subject.missing:
        used = leave_open(f"Datasets that are no longer known: {', '.join(subject.missing)}.")
    else:
        used = answer(is_used, *sentences)
    unnamed = bool(sum(counted)) and not any(describe_steps(chain.find("curate")) for chain in subject.chains)
    return {
        "synthetic_used": used,
        "synthetic_modalities": fill(f"{'; '.join(modalities)}.") if is_used else leave_open(),
        "synthetic_models": _name_models(models, unnamed=unnamed),
        "synthetic_other_models": leave_open(
            "State which of the models above are not on the market, and what they were trained on, as far as known."
        ),
        "synthetic_comments": leave_open(),
    }


def _name_models(models: Sequence[str], *, unnamed: bool) -> Answer:
    note = "Pair lists brought synthetic captions; the lineage does not have which model wrote them."
    if unnamed and not models:
        return leave_open(note)
    if not models:
        return leave_open()
    return fill(f"{', '.join(dict.fromkeys(models))}.", _MARKET, *([note] if unnamed else []))


def answer_processing(subject: Subject, sources: Sequence[DataSource]) -> Answers:
    """Return the answers to section 3."""
    chains = subject.chains
    rights, illegal = list(_list_rights_measures(chains)), list(_list_illegal_measures(chains))
    if others := dict.fromkeys(source.label for source in sources if source.kind != "crawl"):
        rights.append(
            f"Which reservations third parties obeyed when they collected {', '.join(others)} is not in the lineage."
        )
    return {
        "code_of_practice": leave_open(),
        "tdm_measures": fill(*rights) if rights else leave_open(),
        "tdm_comments": leave_open(),
        "illegal_measures": fill(*illegal)
        if illegal
        else leave_open(
            "The lineage has no step against illegal content: no word list, blocked domain, hash list or score."
        ),
        "processing": fill(*_list_steps(chains)) if chains else leave_open(),
    }


def _configs(chains: Sequence[Chain], stage: str) -> list[Manifest]:
    return [one for chain in chains if (one := chain.find(stage)) is not None]


def _settings(manifests: Sequence[Manifest], name: str) -> list[str]:
    """Return the values of a setting that is a list, over all manifests."""
    several = [one.config["sources"] if one.stage == "extract" and "sources" in one.config else [] for one in manifests]
    tables = [*(one.config for one in manifests), *(table for tables in several for table in tables)]
    return list(dict.fromkeys(str(value) for table in tables for value in table.get(name) or ()))


def _count_dropped(manifests: Sequence[Manifest], reasons: Sequence[str]) -> str:
    """Return how many rows were dropped for some reasons."""
    counts = Counter[str]()
    for one in manifests:
        counts.update({reason: number for reason, number in one.counts.dropped.items() if reason in reasons and number})
    return f" Dropped: {format_counts(counts.most_common())}." if counts else " Dropped: 0."


def _list_rights_measures(chains: Sequence[Chain]) -> Iterator[str]:
    extracts, filters, downloads = (_configs(chains, stage) for stage in ("extract", "filter", "download"))
    if words := _settings(extracts, "opt_out_directives"):
        yield f"Pages that declare {_quote(words)} were left out.{_count_dropped(extracts, RESERVED)}"
    if words := _settings(filters, "opt_out"):
        yield f"Pairs of pages that declare {_quote(words)} were dropped.{_count_dropped(filters, RESERVED)}"
    if words := _settings(filters, "allow_licenses"):
        yield f"Only images with these declared licences were kept: {_quote(words)}."
    requested = [one for one in downloads if one.config.get("images") != "archive"]
    if requested:
        signals, agents = _settings(requested, "opt_out"), _settings(requested, "ai_agents")
        yield (
            f"Of hosts, responses and image files these signals were read and obeyed: robots.txt, {_quote(signals)}."
            f"{_count_dropped(requested, RESERVED)}"
        )
        if ROBOTS_AI_AGENTS.name in signals and agents:
            yield f"A host whose robots.txt excludes one of {format_quantity(len(agents), 'AI agent')} counts as reserved."
    packs = [chain.pack for chain in chains]
    if names := {one.key for manifest in (*filters, *packs) for one in manifest.inputs if one.stage == OPT_OUT_LIST}:
        dropped = _count_dropped([*filters, *packs], ("opt_out_list",))
        yield f"Images and pages that opt-out lists name ({', '.join(sorted(names))}) were left out.{dropped}"
    if chains:
        stages = [one for chain in chains for one in chain.ancestors.values()]
        removed = sum(one.counts.dropped.get("takedown", 0) for one in stages)
        requests = {key for pack in packs for key in PackFacts.of(pack).takedowns}
        yield (
            f"Requests to remove works that were applied to the training data: {len(requests):,}. Pairs that were removed "
            f"for them: {removed:,}."
        )


def _list_illegal_measures(chains: Sequence[Chain]) -> Iterator[str]:
    filters, downloads, curates = (_configs(chains, stage) for stage in ("filter", "download", "curate"))
    if languages := _settings(filters, "unsafe_languages"):
        dropped = _count_dropped(filters, ("unsafe",))
        yield f"Captions with words of the lists of unsafe words in {_quote(languages)} were dropped.{dropped}"
    if domains := _settings(filters, "blocked_domains"):
        dropped = _count_dropped(filters, ("blocked_domain",))
        yield f"Images on {format_quantity(len(domains), 'blocked domain')} were not requested.{dropped}"
    if any(
        isinstance(one, list) and one for lists in downloads for one in (lists.config.get("hash_lists") or {}).values()
    ):
        dropped = _count_dropped(downloads, ("known_harm",))
        yield f"Images were compared with lists of hashes of known harmful images before they were stored.{dropped}"
    scores = _settings(curates, "scores")
    if "nsfw" in scores:
        rules = [str(rule) for one in curates for rule in one.config.get("rules") or () if "nsfw" in str(rule)]
        done = (
            f"Rules that dropped images by it: {'; '.join(dict.fromkeys(rules))}."
            if rules
            else "No rule dropped by it."
        )
        yield f"A classifier computed the probability that an image is pornographic. {done}"


def _list_steps(chains: Sequence[Chain]) -> Iterator[str]:
    """Yield what each stage kept of the pairs, and what was done about personal data."""
    for chain in chains:
        where = f"Dataset {chain.pack.key}: " if len(chains) > 1 else ""
        for stage in funnel_stages(chain.ancestors.values()):
            reasons = f"; dropped: {format_counts(stage['reasons'].items())}" if stage["reasons"] else ""
            yield f"{where}{stage['stage']} kept {stage['kept']:,} of {format_quantity(stage['input'], 'pair')}{reasons}."
    modes = {str(one.config.get("personal")) for one in _configs(chains, "filter")}
    yield from (text for mode, text in _PERSONAL.items() if mode in modes)


def _quote(words: Sequence[str]) -> str:
    return ", ".join(f"`{word.replace('`', '')}`" for word in words)
