"""Answers img2dataset's requests from the archives of the sources.

`ArchiveOpener` has no network client, so nothing is requested. `MixedOpener` requests the images of other sources.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from dataops.archives.captures import parse_headers
from tasks.download.fetch.archive_index import ArchiveIndex, Hop
from tasks.download.fetch.opener import Evidence, Fetch, Fetched, FetchLimits, SafeOpener
from tasks.web.fetch_error import FetchError
from tasks.web.request import MAX_REDIRECTS

NOT_IN_ARCHIVE = "not_in_archive"
"""Drop reason of an image that no archive of the source has."""


class ArchiveOpener(SafeOpener):
    """An opener for one shard. Headers and bodies pass the same checks as those of a server.

    Args:
        hops: the answers of each URL (ArchiveIndex.find_hops).
    """

    def __init__(self, limits: FetchLimits, index: ArchiveIndex, hops: Mapping[str, list[Hop]]):
        super(SafeOpener, self).__init__()  # without the client and the rules of hosts
        self.limits, self.index, self.hops, self.originals = limits, index, hops, None
        self.evidence: dict[str, Evidence] = {}
        self._final: dict[str, FetchError] = {}

    def close(self) -> None:
        """Do nothing: it has no connections."""

    def _new_fetch(self) -> Fetch:
        return _ArchivedFetch(self)


class MixedOpener(SafeOpener):
    """An opener for one shard that takes some images from archives, and requests the others.

    Args:
        web: an opener for the requests, whose client and rules this one uses.
        hops: the answers of the URLs that are taken from archives (ArchiveIndex.find_hops).
    """

    def __init__(self, web: SafeOpener, index: ArchiveIndex, hops: Mapping[str, list[Hop]]):
        super().__init__(web.limits, web.client, web.rules, web.pace, web.originals)
        self.index, self.hops = index, hops

    def _new_fetch(self) -> Fetch:
        return _MixedFetch(self)


class _MixedFetch(Fetch):
    """The archived answers for one URL, or the requests for it."""

    opener: MixedOpener

    def run(self, url: str) -> Fetched:
        if url not in self.opener.hops:
            return super().run(url)
        archives = ArchiveOpener(self.limits, self.opener.index, self.opener.hops)
        archives.harm = self.opener.harm
        fetch = _ArchivedFetch(archives)
        self.evidence = fetch.evidence
        return fetch.run(url)


class _ArchivedFetch(Fetch):
    """The archived answers for one URL."""

    opener: ArchiveOpener

    def __init__(self, opener: ArchiveOpener):
        self.opener, self.limits, self.evidence = opener, opener.limits, Evidence()

    def run(self, url: str) -> Fetched:
        hops = self.opener.hops.get(url, [])
        for hop in hops:
            evidence, index = self.evidence, self.opener.index
            evidence.final_url, evidence.fetched_at = url, hop.date
            evidence.archive, evidence.archive_offset = index.names[hop.file], hop.record_offset
            head, body = index.read(hop)
            response: Any = SimpleNamespace(status=hop.status, headers=parse_headers(head), body=body, error=hop.error)
            result = self._read_response(url, response, None) if hop.status else self._read_body(response)
            if isinstance(result, Fetched):
                return result
            url = str(result)
        if len(hops) > MAX_REDIRECTS:
            raise FetchError("redirect_loop", f"more than {MAX_REDIRECTS} redirects")
        raise FetchError(NOT_IN_ARCHIVE, "no archive of the source has a usable record of it")

    def _read_start(self, response: Any, size: int) -> bytes:
        return response.body[:size]

    def _read_body(self, response: Any) -> bytes:
        if response.error:
            raise FetchError(*response.error.split(": ", 1))
        self.evidence.bytes = len(response.body)
        return response.body
