"""The drop reasons that more than one module names, and the base class of errors that have one. Loads nothing.

Each name is a constant here, or in the one object that drops for it: a rule, a step, a hook. Their
meanings are in tasks/reports/drop_reasons.py; tests/unit/test_names.py finds a second place of a
name.
"""


class Reason:
    """Names of drop reasons. Some are also outcomes of a crawl, or damages of an archive."""

    NO_URL = "no_url"
    DATA_URL = "data_url"
    NOT_HTTP = "not_http"
    BAD_URL = "bad_url"
    URL_TOO_LONG = "url_too_long"
    NO_CAPTION = "no_caption"
    TIMEOUT = "timeout"
    DNS = "dns"
    CONNECT = "connect"
    INCOMPLETE = "incomplete"
    HOST_BUSY = "host_busy"
    TLS = "tls"
    PRIVATE_ADDRESS = "private_address"
    NO_CONTACT = "no_contact"
    BAD_RESPONSE = "bad_response"
    REDIRECT_LOOP = "redirect_loop"
    PAYMENT_REQUIRED = "payment_required"
    TOO_LARGE = "too_large"
    ROBOTS = "robots"
    OPT_OUT = "opt_out"
    TAKEDOWN = "takedown"
    LOST = "lost"
    OTHER = "other"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED = "truncated"
    DECODE = "decode"
    TOO_COMPLEX = "too_complex"
    OUT_OF_MEMORY = "out_of_memory"
    HOST_CPU = "host_cpu"
    HOST_LIMIT = "host_limit"
    WORKER_DIED = "worker_died"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    ASPECT_RATIO = "aspect_ratio"
    CORRUPT = "corrupt"
    BLANK = "blank"
    PLACEHOLDER = "placeholder"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    EVALUATION_OVERLAP = "evaluation_overlap"
    OPT_OUT_LIST = "opt_out_list"


class Unusable(ValueError):
    """Bytes or texts that cannot be used. `reason` is a stable class; the message is it alone, or `reason: detail`."""

    def __init__(self, reason: str, detail: str | None = None):
        super().__init__(reason if detail is None else f"{reason}: {detail}")
        self.reason = reason
