"""Find the refusals of bot managers: the signal bot-manager.

Cloudflare and others refuse crawlers for the owner of a site, by a challenge that only browsers pass. Their responses count
as the owner's answer, and are not retried.

Sources: developers.cloudflare.com/cloudflare-challenges/challenge-types/challenge-pages/detect-response (`cf-mitigated`);
    vercel.com/docs/vercel-firewall (`x-vercel-mitigated`); docs.aws.amazon.com/waf (`x-amzn-waf-action`).
"""

import re
from collections.abc import Iterator

from dataops.rights.signals import Finding, Signal, Statement

HEADERS = ("cf-mitigated", "x-vercel-mitigated", "x-amzn-waf-action", "x-sucuri-block")
CHALLENGE_STATUSES = frozenset({202, 401, 403, 405, 406, 429, 503})
"""Statuses of responses whose body may be a challenge."""
MAX_CHALLENGE_BYTES = 16_384
"""Maximum bytes that are read of such a body."""
_CHALLENGE = re.compile(
    rb"challenge-platform|cf[-_]chl|cf-turnstile|_cf_chl_opt|<title>just a moment|attention required! \| cloudflare"
    rb"|sorry, you have been blocked|captcha-delivery\.com|_incapsula_resource|px-captcha|awswafcaptcha|gokuprops"
    rb"|g-recaptcha|h-captcha|hcaptcha\.com",
    re.IGNORECASE,
)


def find_refusal(statement: Statement) -> Iterator[Finding]:
    """Yield the header by which a bot manager marks its own responses."""
    yield Finding(False, f"{statement.name}: {statement.value.strip()}")


def find_challenge(body: bytes) -> str | None:
    """Return the mark of a challenge in the start of a body, or None."""
    found = _CHALLENGE.search(body[:MAX_CHALLENGE_BYTES])
    return f"challenge: {found[0].decode('ascii').lower()}" if found else None


BOT_MANAGER = Signal(name="bot-manager", reads={"header": HEADERS}, find=find_refusal, order=60)
