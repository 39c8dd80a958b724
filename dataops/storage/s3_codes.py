"""Error codes of S3 servers, and what each kind of them means. Does not load boto3.

Where an answer has no body (to a HEAD request), boto gives its HTTP status as the code.
"""

from typing import Any

MISSING = frozenset({"404", "NotFound", "NoSuchKey", "NoSuchBucket"})
REFUSED = frozenset({"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
CHANGED = frozenset({"412", "PreconditionFailed"})
TRANSIENT = frozenset({"InternalError", "OperationAborted", "ConditionalRequestConflict", "RequestTimeout", "SlowDown"})
"""Codes after which the same request may succeed."""
CORRUPT = frozenset({"BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest", "IncompleteBody"})
"""Codes of bytes that arrived with another checksum than the sent one."""
REMEDIES = {
    "NoSuchBucket": "Create the bucket, or correct store.uri",
    "InvalidBucketName": "Correct store.uri: s3://bucket/prefix",
    "InvalidAccessKeyId": "Correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "Correct AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "Give these credentials the right to read, write, list and delete below this prefix",
    "AllAccessDisabled": "Give these credentials the right to read, write, list and delete below this prefix",
    "ExpiredToken": "Renew the temporary credentials (AWS_SESSION_TOKEN)",
    "InvalidToken": "Renew the temporary credentials (AWS_SESSION_TOKEN)",
    "RequestTimeTooSkewed": "Set this machine's clock (timedatectl set-ntp true), or the server's",
    "AuthorizationHeaderMalformed": "Set AWS_DEFAULT_REGION to the bucket's region",
    "PermanentRedirect": "Set AWS_DEFAULT_REGION to the bucket's region and AWS_ENDPOINT_URL to its server",
    "IllegalLocationConstraintException": "Set AWS_DEFAULT_REGION to the bucket's region",
    "NotImplemented": "Use a server that supports conditional puts and checksums",
}
"""What the user must do about an error code of the store's server: a retry solves none of them."""


def error_code(error: Any) -> str:
    """Return the error code of a botocore ClientError, or "" if it has none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def http_status(error: Any) -> int:
    """Return the HTTP status of a botocore ClientError, or 0 if there was no answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
