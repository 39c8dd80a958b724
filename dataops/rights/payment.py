"""Read the price that a 402 response offers. Nothing is ever paid.

Sources: developers.cloudflare.com/ai-crawl-control/features/pay-per-crawl (`crawler-price`); github.com/coinbase/x402
(version 1: a JSON body; version 2: `PAYMENT-REQUIRED`); RFC 9110, section 15.5.3 (402).
"""

from email.message import Message

from dataops.rights.signals import MAX_DETAIL_CHARS

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
