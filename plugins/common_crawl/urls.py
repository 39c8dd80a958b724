"""Resolves all references of a page at once: a WAT record has them in one list, where HTML gives one after the other."""

import re
from collections.abc import Sequence

from dataops.reasons import Reason
from dataops.web.urls import HOST_AND_PATH, QUERY, BadUrl, Resolver, truncate_url

_PLAIN_LINES = re.compile(rf"(?:(https?://{HOST_AND_PATH}{QUERY})|[^\n]*+)\n").findall


class ListResolver(Resolver):
    """Resolves a list of references, most of them by one search."""

    def resolve_all(self, references: Sequence[str]) -> tuple[list[str], list[str | None]]:
        """Return the URL and the reason (None if usable) of each reference; an unusable one is truncated.

        The result is that of `resolve` for each reference, but one search handles all plain ones.
        """
        urls = self._resolve_plain(references)
        reasons: list[str | None] = [None] * len(urls)
        for i in [i for i, url in enumerate(urls) if not url]:
            if references[i].startswith("data:"):  # one image of eight: too frequent for an exception each
                urls[i], reasons[i] = truncate_url(references[i], self.max_chars), Reason.DATA_URL
                continue
            try:
                urls[i] = self.resolve(references[i])
            except BadUrl as bad:
                urls[i], reasons[i] = truncate_url(references[i], self.max_chars), bad.reason
        return urls, reasons

    def _resolve_plain(self, references: Sequence[str]) -> list[str]:
        """Return the URLs of the references that are canonical after their prefix is added, and "" for the others."""
        _, _, scheme, root, folder = self.prefixes
        absolute = [
            reference
            if reference[:4] == "http"
            else (scheme if reference[1:2] == "/" else root) + reference
            if reference[:1] == "/"
            else folder + reference
            if reference[:1] not in ".?#" and ":" not in reference
            else ""
            for reference in references
        ]
        lines = "\n".join([*absolute, ""])
        urls: list[str] = _PLAIN_LINES(lines)
        is_long = len(lines) > self.max_chars and max(map(len, urls)) > self.max_chars
        # There are more URLs than references if a reference contains a line end.
        return [""] * len(absolute) if is_long or len(urls) != len(absolute) else urls
