"""List every `drop_reason` of each stage, with its meaning and what a user can do about it.

docs/reference/drop-reasons.md is written from these tables (`make docs-reference`).
"""

from dataops import plugins
from dataops.reasons import Reason
from dataops.schema import DropReason

OPT_OUT_LIST = DropReason(
    "An opt-out list names the image, its page or one of their domains; `page_opt_out` has the list.",
    "`filter.opt_out_lists`",
)
_TAKEDOWN = DropReason("A recorded takedown names the row.", "`pairmill takedown --help`")

EXTRACT = {
    Reason.NO_URL: DropReason("The image has no URL."),
    Reason.DATA_URL: DropReason("The image is embedded in the page (`data:`)."),
    Reason.NOT_HTTP: DropReason("The URL is neither http nor https."),
    Reason.BAD_URL: DropReason("The URL cannot be parsed."),
    Reason.URL_TOO_LONG: DropReason("The URL is longer than the limit.", "`source.max_url_chars`"),
    Reason.NO_CAPTION: DropReason("The image has no alt, title, figcaption or other caption."),
    Reason.OPT_OUT: DropReason(
        "The page forbids the use of its images, in its `<meta>` and `<link>` elements or in its response headers.",
        "`source.opt_out_directives`",
    ),
}
EXTRACT |= {name: reason for kind in plugins.load("sources").values() for name, reason in kind.reasons.items()}
_AGAIN = "`pairmill rerun RUN --from download --retry {0}`"
DOWNLOAD = {
    Reason.TIMEOUT: DropReason(
        "The image was not complete in time.", f"{_AGAIN.format(Reason.TIMEOUT)}; `download.timeout`"
    ),
    Reason.DNS: DropReason("The host name was not resolved.", _AGAIN.format(Reason.DNS)),
    Reason.CONNECT: DropReason("The host accepted no connection, or closed it.", _AGAIN.format(Reason.CONNECT)),
    Reason.INCOMPLETE: DropReason("The response ended early.", _AGAIN.format(Reason.INCOMPLETE)),
    Reason.HOST_BUSY: DropReason(
        "The row had no turn at its host in time. Only in snapshots of older versions.",
        _AGAIN.format(Reason.HOST_BUSY),
    ),
    "http_NNN": DropReason(
        "The response has this HTTP status, such as http_404.",
        f"{_AGAIN.format('http_5xx,http_429')} for transient ones",
    ),
    Reason.TLS: DropReason("The TLS certificate or handshake is invalid."),
    Reason.PRIVATE_ADDRESS: DropReason(
        "The host resolves to an IP address that is not on the public internet.",
        '`download.connect_to = { "HOST" = "IP_ADDRESS:PORT" }` for a host of your own, or '
        '`source.images = "archive"` for WARC files that hold the images',
    ),
    Reason.NO_CONTACT: DropReason(
        "`download.contact` is not set, so only hosts of `download.connect_to` are requested.", "`download.contact`"
    ),
    Reason.BAD_URL: DropReason("The URL, or that of a redirect, cannot be requested."),
    Reason.BAD_RESPONSE: DropReason("The response is not valid HTTP."),
    Reason.REDIRECT_LOOP: DropReason("There are too many redirects."),
    Reason.ROBOTS: DropReason(
        "robots.txt of the host, or of the host of a redirect, disallows the request, or is not available."
    ),
    Reason.OPT_OUT: DropReason("The host, the response or the image opts out of training."),
    Reason.PAYMENT_REQUIRED: DropReason(
        "The host asks for payment (status 402). Nothing is paid; the column `opt_out` of the evidence has the offer."
    ),
    Reason.TOO_LARGE: DropReason("The image has too many bytes.", "`download.max_bytes`"),
    Reason.NOT_AN_IMAGE: DropReason("The bytes are not an image, often an HTML page."),
    Reason.UNSUPPORTED_FORMAT: DropReason("The image has a format that is not decoded."),
    Reason.TRUNCATED: DropReason("The image ends early."),
    Reason.DECODE: DropReason("The image cannot be decoded."),
    Reason.TOO_COMPLEX: DropReason("The structure of the file needs too much time to decode (a decompression bomb)."),
    Reason.OUT_OF_MEMORY: DropReason(
        "The image needs more memory than the limit to decode.", "`download.max_image_area`"
    ),
    Reason.HOST_CPU: DropReason(
        "Images of the host took far more CPU time than their size explains, so it was given up for this run."
    ),
    Reason.HOST_LIMIT: DropReason("The host has more images than may be requested.", "`download.max_host_rows`"),
    Reason.WORKER_DIED: DropReason("The process that decoded the image died or exceeded its time."),
    Reason.TOO_MANY_PIXELS: DropReason("The image has too many pixels.", "`download.max_image_area`"),
    Reason.TOO_SMALL: DropReason("A side of the image has too few pixels.", "`download.min_image_size`"),
    Reason.ASPECT_RATIO: DropReason("The ratio of the sides is too large.", "`download.max_aspect_ratio`"),
    Reason.LOST: DropReason("img2dataset returned no result for the row.", _AGAIN.format(Reason.LOST)),
    Reason.OTHER: DropReason("Another error; `error_message` has its class.", _AGAIN.format(Reason.OTHER)),
    Reason.TAKEDOWN: _TAKEDOWN,
}
DOWNLOAD |= {name: reason for hook in plugins.load("fetch_hooks").values() for name, reason in hook.reasons.items()}
CURATE = {
    Reason.NOT_AN_IMAGE: DropReason("The bytes in the shard are not an image."),
    Reason.UNSUPPORTED_FORMAT: DropReason("The image has a format that is not decoded."),
    Reason.TRUNCATED: DropReason("The image ends early."),
    Reason.CORRUPT: DropReason("A part of the image cannot be decoded."),
    Reason.TOO_COMPLEX: DropReason("The structure of the file needs too much time to decode."),
    Reason.TOO_MANY_PIXELS: DropReason("The image has too many pixels to decode."),
    Reason.TOO_SMALL: DropReason("The smaller side of the original has too few pixels.", "`curate.min_side`"),
    Reason.ASPECT_RATIO: DropReason("The ratio of the original's sides is too large.", "`curate.max_aspect_ratio`"),
    Reason.BLANK: DropReason("The image is nearly of one colour.", "`curate.min_contrast`"),
    Reason.PLACEHOLDER: DropReason("The same bytes came from too many URLs.", "`curate.max_addresses`"),
    Reason.EXACT_DUPLICATE: DropReason("Another kept row has the same bytes.", "`curate.same_caption`"),
    Reason.NEAR_DUPLICATE: DropReason(
        "Another kept row has nearly the same image.", "`curate.near_duplicates`, `curate.near_duplicate_distance`"
    ),
    Reason.EVALUATION_OVERLAP: DropReason("The image is in an evaluation set.", '`curate.overlap.action = "mark"`'),
}
CURATE |= {name: reason for step in plugins.load("steps").values() for name, reason in step.reasons.items()}
DROP_REASONS: dict[str, dict[str, DropReason]] = {
    "extract": EXTRACT,
    "download": DOWNLOAD,
    "curate": CURATE,
    "pack": {Reason.TAKEDOWN: _TAKEDOWN, Reason.OPT_OUT_LIST: OPT_OUT_LIST},
}
"""Drop reasons of each stage but `filter` (tasks.filter.added_steps). NNN and SCORE stand for what varies."""


def find_reason(stage: str, name: str) -> DropReason | None:
    """Return the description of a drop reason as it occurs in data, or None if there is none."""
    reasons = DROP_REASONS.get(stage, {})
    if found := reasons.get(name):
        return found
    if stage == "download" and name.startswith("http_") and name[5:].isdecimal():
        return reasons["http_NNN"]
    return next((reasons[key] for key in reasons if key.startswith("SCORE_") and name.endswith(key[5:])), None)
