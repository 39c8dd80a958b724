"""Creates an S3 bucket if it does not exist: `python -m plugins.deployment.bucket NAME`.

Endpoint and credentials come from AWS_*.
"""

import sys
import time
from typing import Any

from dataops.errors import PairmillError, StorageError

PATIENCE_S = 60.0
"""A server that has just started may answer before it can write."""


def create_bucket(name: str, patience_s: float = PATIENCE_S) -> bool:
    """Create the bucket; return False if these credentials own it already.

    Raises: StorageError if it cannot be created, or belongs to another owner.
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
                except client.exceptions.BucketAlreadyOwnedByYou:  # another process has created it meanwhile
                    return False
                except (BotoCoreError, ClientError) as refused:
                    failure = refused
        final = _code(failure) in ("403", "AccessDenied", "SignatureDoesNotMatch", "InvalidBucketName")
        if final or time.monotonic() > deadline:
            raise StorageError(
                f"cannot create bucket {name}: {failure}. Check AWS_ENDPOINT_URL and the credentials, or have the bucket"
                " created by someone with that permission"
            ) from failure
        time.sleep(1)


def _create(client: Any, name: str) -> None:
    region = client.meta.region_name
    options = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    client.create_bucket(Bucket=name, **options)


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def main(arguments: list[str]) -> int:
    """Create one bucket, and print one line on standard error."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m plugins.deployment.bucket NAME\n")
        return 2
    try:
        created = create_bucket(arguments[0])
    except PairmillError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stderr.write(f"bucket {arguments[0]} {'created' if created else 'exists'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
