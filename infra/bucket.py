"""Makes an S3 bucket where it is missing: `python -m infra.bucket NAME`. Endpoint and credentials come from AWS_*."""

import sys
import time
from typing import Any

from dataops.errors import PairmillError, StorageError

PATIENCE_S = 60.0
"""A server that has just started answers a little before it can write."""


def make_bucket(name: str, patience_s: float = PATIENCE_S) -> bool:
    """Make the bucket; False where these credentials have it already.

    Raises: StorageError when it cannot be made, or is another owner's.
    """
    from boto3.session import Session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + patience_s
    client: Any = Session().client("s3", config=Config(connect_timeout=5, read_timeout=20, retries={"max_attempts": 1}))
    while True:
        try:
            client.head_bucket(Bucket=name)
            return False
        except (BotoCoreError, ClientError) as error:
            if _code(error) not in ("404", "NoSuchBucket"):
                failure = error
            else:
                try:
                    _create(client, name)
                    return True
                except client.exceptions.BucketAlreadyOwnedByYou:  # another was quicker
                    return False
                except (BotoCoreError, ClientError) as refused:
                    failure = refused
        final = _code(failure) in ("403", "AccessDenied", "SignatureDoesNotMatch", "InvalidBucketName")
        if final or time.monotonic() > deadline:
            raise StorageError(
                f"cannot make bucket {name}: {failure}. Check AWS_ENDPOINT_URL and the credentials, or have the bucket"
                " made by whoever may"
            ) from failure
        time.sleep(1)


def _create(client: Any, name: str) -> None:
    region = client.meta.region_name
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    client.create_bucket(Bucket=name, **place)


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def main(arguments: list[str]) -> int:
    """One bucket; one line on standard error."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m infra.bucket NAME\n")
        return 2
    try:
        made = make_bucket(arguments[0])
    except PairmillError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stderr.write(f"bucket {arguments[0]} {'made' if made else 'is there'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
