"""Answers to section 2.3 of the template: the crawlers, what they fetched, and when."""

from collections.abc import Sequence
from typing import Any

from dataops.formatting import format_bytes, format_counts, format_quantity
from dataops.snapshot import Manifest
from dataops.trace.sources import list_sources
from plugins.disclosure.answers import Answer, Answers, answer, fill, leave_open
from plugins.disclosure.data_sources import DataSource
from plugins.disclosure.domains import Fetched
from plugins.disclosure.general import format_month
from plugins.disclosure.subject import Chain
from tasks.web.request import format_user_agent

TYPES = 8
"""Number of content types that are listed."""
_CONTACT = "Each request also carried a contact, which is not part of the lineage."


def answer_crawling(
    chains: Sequence[Chain], sources: Sequence[DataSource], fetched: Fetched, *, is_sme: bool
) -> Answers:
    """Return the answers to section 2.3."""
    downloads = [one for chain in chains if (one := chain.find("download")) is not None]
    requested = [one for one in downloads if one.config.get("images") != "archive"]
    crawls = [source for source in sources if source.kind == "crawl"]
    sites = [source for source in crawls if source.summary.provenance == "crawl"]
    if not requested and not crawls:
        return _answer_without_crawler(chains, downloads, sources)
    foreign = [source.label for source in crawls if source not in sites]
    note = (
        f"The sources {', '.join(foreign)} are crawls of the provider that are not in the lineage." if foreign else ""
    )
    modalities = [*(["Image"] if requested else []), *(["Text: captions of the pages"] if crawls else [])]
    return {
        "crawlers_used": answer(True, *filter(None, (_describe_use(requested, sites), note))),
        "crawler_names": _list_names(requested, sites),
        "crawler_purposes": fill(
            "Collection of images and captions, to train models of images and texts such as this one. The crawlers serve "
            "no search engine and no request of a user."
        ),
        "crawler_behaviour": fill(*_describe_behaviour(requested, sites)),
        "crawl_period": _find_period(fetched, requested, _list_ends(chains) if sites else []),
        "crawl_content": _describe_content(fetched, requested),
        "crawl_modalities": fill(f"{'; '.join(modalities)}."),
        "crawl_domains": _list_domains(fetched, is_sme=is_sme),
        "crawl_comments": leave_open(),
    }


_NAMES = (
    *("crawlers_used", "crawler_names", "crawler_purposes", "crawler_behaviour", "crawl_period", "crawl_content"),
    *("crawl_modalities", "crawl_domains", "crawl_comments"),
)


def _answer_without_crawler(
    chains: Sequence[Chain], downloads: Sequence[Manifest], sources: Sequence[DataSource]
) -> Answers:
    found = {name: leave_open() for name in _NAMES}
    is_known = len(downloads) == len(chains) > 0 and all(source.kind is not None for source in sources)
    if is_known:
        found["crawlers_used"] = answer(
            False, "All images and captions are from archives and lists; none was requested."
        )
    else:
        text = "The manifests of a download, or the kind of a source, are not known."
        found["crawlers_used"] = leave_open(text)
    return found


def _describe_use(requested: Sequence[Manifest], sites: Sequence[DataSource]) -> str:
    parts = [
        *(["images were requested from their hosts"] if requested else []),
        *([f"pages were crawled ({', '.join(site.label for site in sites)})"] if sites else []),
    ]
    text = " and ".join(parts) or "pages were crawled"
    return f"{text[0].upper()}{text[1:]}."


def _list_names(requested: Sequence[Manifest], sites: Sequence[DataSource]) -> Answer:
    rows = dict[tuple[str, str], None]()
    for download in requested:
        rows[format_user_agent(str(download.config.get("user_agent", "")), None), "images"] = None
    for site in sites:
        rows[format_user_agent(str(site.config.get("user_agent", "")), None), f"pages of {site.label}"] = None
    if not rows:
        return leave_open("The crawler is not in the lineage.")
    return fill(_CONTACT, columns=("User-Agent", "requests"), rows=list(rows))


def _describe_behaviour(requested: Sequence[Manifest], sites: Sequence[DataSource]) -> list[str]:
    sentences = [
        "robots.txt (RFC 9309) of a host is read before any other request; a URL that it disallows is not requested.",
        "The crawlers do not log in, solve no captcha and pay for nothing: a response that asks for one of these is a "
        "failed request.",
        "The number of parallel requests to one host is limited, and a Crawl-delay in its robots.txt counts.",
    ]
    configs: list[Any] = [*(one.config for one in requested), *(site.config for site in sites)]
    delays = sorted({float(one["max_crawl_delay"]) for one in configs if one.get("max_crawl_delay") is not None})
    if delays:
        limits = " or ".join(f"{delay:g}" for delay in delays)
        sentences.append(f"A host that requires more than {limits} seconds between requests gets none.")
    sentences.append("Other reservations of rights that the crawlers obey are in section 3.1.")
    return sentences


def _list_ends(chains: Sequence[Chain]) -> list[str]:
    """Return when the crawls of pages ended."""
    extracts = (one for chain in chains if (one := chain.find("extract")) is not None)
    return sorted({one.created_at for one in extracts if any(s.provenance == "crawl" for s in list_sources(one))})


def _find_period(fetched: Fetched, requested: Sequence[Manifest], crawled: Sequence[str]) -> Answer:
    """Return the period, in months as the template asks for it, and what is known of it.

    Args:
        crawled: ends of the crawls of pages.
    """
    sentences = []
    if fetched.first:
        sentences.append(f"{format_month(fetched.first)} to {format_month(fetched.last)}.")
        sentences.append(f"Images were requested from {fetched.first[:10]} to {fetched.last[:10]}.")
    elif requested:
        days = ", ".join(sorted({one.created_at[:10] for one in requested}))
        sentences.append(f"The downloads ended on {days}; the times of single requests are no longer in the store.")
    if crawled:
        days = ", ".join(dict.fromkeys(end[:10] for end in crawled))
        sentences.append(f"The crawls of pages ended by {days}; their archives hold the time of each request.")
    return fill(*sentences) if sentences else leave_open("The times of the requests are not in the lineage.")


def _describe_content(fetched: Fetched, requested: Sequence[Manifest]) -> Answer:
    rows = sum(one.counts.input for one in requested)
    images = sum(one.counts.kept for one in requested)
    sentences = []
    if requested:
        sentences.append(
            f"{format_quantity(rows, 'image URL')} from the sources of sections 2.1 to 2.6, of which {images:,} gave an "
            "image. They are parts of web pages, next to which the captions stand."
        )
    if fetched.images:
        domains = format_quantity(len(fetched.domains), "registrable domain")
        sentences.append(f"Of these, {format_quantity(fetched.images, 'image')} of {domains} are in the training data.")
    if fetched.types:
        counts = [(f"`{name}`", count) for name, count in fetched.types.most_common(TYPES)]
        sentences.append(f"By content type: {format_counts(counts)}.")
    sentences.append("Which kinds of websites these are (such as news, blogs or museums) was not classified.")
    return fill(*sentences)


def _list_domains(fetched: Fetched, *, is_sme: bool) -> Answer:
    top = fetched.select_top(is_sme=is_sme)
    if not top:
        return leave_open("The rows of the datasets are not in a known store; `--store` names another.")
    share = "5%, at most 1,000, as for a small or medium-sized enterprise," if is_sme else "10%"
    measure = (
        "size of the content" if fetched.unsized < fetched.images else "number of images (their sizes are not known)"
    )
    sentences = [
        f"The top {share} of {format_quantity(len(fetched.domains), 'registrable domain')} by {measure}: {len(top):,}. "
        "They are those of the pairs in the training data."
    ]
    if 0 < fetched.unsized < fetched.images:
        sentences.append(f"{format_quantity(fetched.unsized, 'image')} without a recorded size count as 0 bytes.")
    rows = [(one.name or "without a name", f"{one.images:,}", format_bytes(one.bytes)) for one in top]
    return fill(*sentences, columns=("domain", "images", "content"), rows=rows)
