"""Parses the images that a page offers for link previews: Open Graph, else the Twitter card."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from dataops.web.image_urls import parse_length

MAX_SHARED_IMAGES = 100


@dataclass
class SharedImage:
    """An `og:image` with its structured properties, or a `twitter:image`."""

    reference: str
    texts: list[str] = field(default_factory=list)
    """The alt of the image; for the first image also the title and the description of the page."""
    width: int | None = None
    height: int | None = None


def parse_shared_images(metas: Iterable[tuple[str, str]]) -> list[SharedImage]:
    """Return the images of `og:image`, each once, in page order; if there are none, that of `twitter:image`.

    A property after an `og:image` (`og:image:alt`, `og:image:width` ...) belongs to that image. The title and the
    description of the page belong to the first image.

    Args:
        metas: (property or name in lower case, content) of each `<meta>`, in document order.

    Source: The Open Graph protocol, ogp.me (structured properties, arrays).
    """
    images: list[SharedImage] = []
    first: dict[str, str] = {}
    for name, content in metas:
        first.setdefault(name, content)
        if not name.startswith("og:image"):
            continue
        if name in ("og:image", "og:image:url"):
            if not (name == "og:image:url" and images and images[-1].reference == content):
                images.append(SharedImage(content))
        elif images and name == "og:image:alt":
            images[-1].texts.append(content)
        elif images and name == "og:image:width":
            images[-1].width = parse_length(content)
        elif images and name == "og:image:height":
            images[-1].height = parse_length(content)
    prefix = "og:"
    if not images and (image := first.get("twitter:image") or first.get("twitter:image:src")):
        prefix = "twitter:"
        images = [SharedImage(image, [first.get("twitter:image:alt", "")])]
    unique = list({image.reference: image for image in reversed(images)}.values())[::-1][:MAX_SHARED_IMAGES]
    if unique:
        unique[0].texts += [
            first.get(f"{prefix}{name}") or first.get(f"og:{name}", "") for name in ("title", "description")
        ]
    return unique
