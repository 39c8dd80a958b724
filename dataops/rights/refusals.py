"""Read how servers refuse: the offers of 402 responses, which are never paid, and the signal bot-manager.

Cloudflare and others refuse crawlers for the owner of a site, by a challenge that only browsers
pass. Their responses count as the owner's answer, and are not retried.

Sources: developers.cloudflare.com/ai-crawl-control/features/pay-per-crawl (`crawler-price`); github.com/coinbase/x402
    (version 1: a JSON body; version 2: `PAYMENT-REQUIRED`); RFC 9110, section 15.5.3 (402);
    developers.cloudflare.com/cloudflare-challenges/challenge-types/challenge-pages/detect-response (`cf-mitigated`);
    vercel.com/docs/vercel-firewall (`x-vercel-mitigated`); docs.aws.amazon.com/waf (`x-amzn-waf-action`).
"""

import re
from collections.abc import Callable, Iterator
from email.message import Message

from dataops.rights.signals import MAX_DETAIL_CHARS, Finding, Signal, Statement

HEADERS = ("cf-mitigated", "x-vercel-mitigated", "x-amzn-waf-action", "x-sucuri-block")
_REFUSALS = frozenset({401, 403, 405, 406, 429, 503})
"""Statuses of refusals whose body may be a challenge."""
MAX_CHALLENGE_BYTES = 16_384
"""Maximum bytes that are read of such a body."""
_CHALLENGE = re.compile(
    rb"challenge-platform|cf[-_]chl|cf-turnstile|_cf_chl_opt|<title>just a moment|attention required! \| cloudflare"
    rb"|sorry, you have been blocked|captcha-delivery\.com|_incapsula_resource|px-captcha|awswafcaptcha|gokuprops"
    rb"|g-recaptcha|h-captcha|hcaptcha\.com",
    re.IGNORECASE,
)
# Pages with these marks are challenges whatever their status; other marks are in ordinary pages, too.
_WHOLE_PAGE = re.compile(
    rb"_cf_chl_opt|<title>just a moment|incapsula incident id|captcha-delivery\.com|awswafcaptcha|gokuprops"
    rb"|<title>access to this page has been denied",
    re.IGNORECASE,
)


def find_refusal(statement: Statement) -> Iterator[Finding]:
    """Yield the header by which a bot manager marks its own responses."""
    yield Finding(False, f"{statement.name}: {statement.value.strip()}")


def find_challenge(status: int, media_type: object, read: Callable[[], bytes]) -> str:
    """Return the mark of a bot manager's challenge in the body of a response; "" without one.

    Args:
        media_type: value of Content-Type, or None.
        read: returns the start of the body. It is called only where that may be a challenge.
    """
    kind = str(media_type or "").lower()
    if 200 <= status < 300:
        pattern = _CHALLENGE if status == 202 else _WHOLE_PAGE
        may_be = "html" in kind
    else:
        pattern, may_be = _CHALLENGE, status in _REFUSALS and not kind.startswith(("image/", "video/", "audio/"))
    found = pattern.search(read()[:MAX_CHALLENGE_BYTES]) if may_be else None
    return f"challenge: {found[0].decode('ascii').lower()}" if found else ""


BOT_MANAGER = Signal(name="bot-manager", reads={"header": HEADERS}, find=find_refusal, order=60)

NO_PRICE = "no price"
MAX_OFFER_BYTES = 4_096
"""Maximum bytes that are read of the body of a 402 response."""


def offers_in_body(headers: Message) -> bool:
    """Return whether a 402 response has its offer in the body: it is JSON, and no header has a price."""
    return "json" in str(headers.get("Content-Type", "")).lower() and describe_price(headers) == NO_PRICE


def describe_price(headers: Message, body: bytes = b"") -> str:
    """Return the price that a 402 response offers, as it is written; NO_PRICE without one.

    Args:
        body: start of the body, where `offers_in_body`.
    """
    for name in ("Crawler-Price", "Payment-Required"):
        if value := str(headers.get(name, "")).strip():
            return f"{name.lower()}: {value}"[:MAX_DETAIL_CHARS].encode("utf-8", "replace").decode()
    offer = " ".join(body[:MAX_OFFER_BYTES].decode("utf-8", "replace").split())
    return f"body: {offer}"[:MAX_DETAIL_CHARS] if offer else NO_PRICE
