"""The names of licences that dataset and model cards of the Hugging Face Hub use."""

import re
from collections.abc import Iterable

OTHER, UNKNOWN = "other", "unknown"
_CREATIVE_COMMONS = re.compile(
    r"https?://(?:www\.)?creativecommons\.org/(?:licenses/(by(?:-nc)?(?:-nd|-sa)?)|publicdomain/(zero))/(\d\.\d)\b.*"
)
_NAMES = frozenset(
    {
        *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
        *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
        *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "apache-2.0", "mit", "bsd-2-clause"),
        *("bsd-3-clause", "openrail", "gpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense", "odc-by", "odbl", "pddl"),
    }
)
# Source: Hugging Face Hub documentation, "Licenses": https://huggingface.co/docs/hub/repositories-licenses


def name_license(license_: str) -> str | None:
    """Return the Hub's name of a licence that is given by URL or name, or None if the Hub has none for it."""
    text = license_.strip().lower()
    if found := _CREATIVE_COMMONS.fullmatch(text):
        text = f"cc0-{found[3]}" if found[2] else f"cc-{found[1]}-{found[3]}"
    text = text.replace(" ", "-")
    return text if text in _NAMES else None


def name_declared(licenses: Iterable[str]) -> dict[str, str]:
    """Return the fields of a card for licences that web pages declare; no text of a page enters it.

    Args:
        licenses: URLs; "" is no licence.

    Returns: `license`: the one name, `unknown` if none is declared, otherwise `other` with a `license_name`.
    """
    found = {text.strip() for text in licenses}
    names = {name_license(text) for text in found}
    if not found - {""}:
        return {"license": UNKNOWN}
    if len(names) == 1 and (name := names.pop()) is not None:
        return {"license": name}
    return {"license": OTHER, "license_name": "declared-by-source" if len(found) == 1 else "several-licences"}


def name_stated(license_: str) -> dict[str, str]:
    """Return the fields of a card for the licence that an owner states, by URL, name or sentence."""
    if license_.strip().lower() in (OTHER, UNKNOWN):
        return {"license": license_.strip().lower()}
    if name := name_license(license_):
        return {"license": name}
    slug = re.sub(r"[^a-z0-9.]+", "-", license_.lower()).strip("-.")[:60]
    return {"license": OTHER, "license_name": slug or "stated-by-owner"}
