"""Options that several commands share."""

from typing import Annotated

from cyclopts import Parameter

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON value on stdout and nothing else.")]
StoreUri = Annotated[
    str | None, Parameter(name="--store", help="Another store to search: a folder, or s3://bucket/prefix.")
]
Yes = Annotated[bool, Parameter(name="--yes", negative="")]
