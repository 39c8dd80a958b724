"""Options that several commands of the command line have."""

from typing import Annotated

from cyclopts import Parameter

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object and nothing else on stdout.")]
Several = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")]
StoreUri = Annotated[str | None, Parameter(name="--store", help="Another store to look in.")]
