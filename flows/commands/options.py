"""Options that several commands share."""

from typing import Annotated

from cyclopts import Parameter

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON value on stdout and nothing else.")]
StoreUri = Annotated[
    str | None, Parameter(name="--store", help="Another store to search: a folder, or s3://bucket/prefix.")
]
Settings = Annotated[
    tuple[str, ...], Parameter(name="--set", help="Override a config key: --set train.epochs=3. May be repeated.")
]
Yes = Annotated[bool, Parameter(name="--yes", negative="")]
