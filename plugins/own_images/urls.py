"""URLs of images that no host serves: `source://photos/cats/1.jpg` is cats/1.jpg of the source photos."""

import os
import re
from urllib.parse import quote, unquote_to_bytes

from dataops.web.urls import OWN_IMAGES


def own_image_url(source: str, path: str) -> str:
    """Return the URL of an image of a source, the same wherever the source lies.

    Args:
        path: its path in the source; bytes that are not UTF-8 are lone surrogates, as in names of files.
    """
    quoted = quote(os.fsencode(path), safe="/!$&'()*+,-.:;=@_~")
    return f"{OWN_IMAGES}{source}/{_DOT_SEGMENT.sub(lambda found: found[0].replace('.', '%2E'), quoted)}"


_DOT_SEGMENT = re.compile(r"(?<![^/])\.{1,2}(?![^/])")


def split_own_image_url(url: str) -> tuple[str, str] | None:
    """Return the source and the path of such a URL; None for any other."""
    if not url.startswith(OWN_IMAGES):
        return None
    source, _, path = url.removeprefix(OWN_IMAGES).partition("/")
    return source, os.fsdecode(unquote_to_bytes(path))
