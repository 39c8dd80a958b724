"""The `[source]` table: one class per kind of source."""

from typing import Annotated, get_args

from pydantic import Field

from tasks.extract.sources.base import Source
from tasks.extract.sources.common_crawl import CommonCrawlSource
from tasks.extract.sources.pairs import PairsSource
from tasks.extract.sources.site import SiteSource
from tasks.extract.sources.warc import WarcSource
from tasks.extract.sources.wat import WatSource

AnySource = WarcSource | WatSource | CommonCrawlSource | PairsSource | SiteSource

SourceConfig = Annotated[AnySource, Field(discriminator="kind")]
"""The `[source]` table; its key `kind` selects the class."""

SOURCE_KINDS: dict[str, type[Source]] = {str(kind.model_fields["kind"].default): kind for kind in get_args(AnySource)}
