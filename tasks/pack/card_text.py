"""What is said of a dataset in sentences: of what it was made, its limits, its licences, how to load and how to cite it.

Each sentence follows from the manifests: what was not looked for is said too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataops.formatting import format_share
from dataops.snapshot import Counts, Manifest, Part, content_digest
from tasks.engine.stage import Work
from tasks.pack.config import PackConfig


@dataclass(frozen=True)
class DatasetFacts:
    """A dataset whose parts are written and whose manifest is not."""

    key: str
    seed: int
    digest: str
    facts: Mapping[str, Any]
    config: Mapping[str, Any]
    lineage: Mapping[str, Manifest]
    """The snapshots that it was made of, by stage from the first on, as far as they are in the store."""
    counts: Counts

    @classmethod
    def of(
        cls,
        work: Work[PackConfig],
        counts: Counts,
        facts: Mapping[str, Any],
        parts: list[Part],
        lineage: Mapping[str, Manifest],
    ) -> "DatasetFacts":
        """Of a dataset that is being made."""
        config = work.config.key_config()
        return cls(work.draft.key, work.seed, content_digest(parts), facts, config, lineage, counts)

    @property
    def samples(self) -> int:
        """Pairs in all."""
        return int(self.facts["samples"])

    @property
    def extension(self) -> str:
        """Of the pictures."""
        return str(self.lineage["download"].config["encode_format"])


def headline(about: DatasetFacts) -> str:
    """How much there is."""
    shards, size = about.facts["shards"], about.facts["bytes"]
    return f"{about.samples:,} pairs of picture and caption in {shards:,} shard{'s' * (shards != 1)}, {size_of(size)}."


def size_of(number: float) -> str:
    """Bytes for people, in powers of ten."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def came_from(about: DatasetFacts) -> str:
    """What the funnel begins with."""
    if (extract := about.lineage.get("extract")) is None:
        return "the snapshots above are no longer in the store"
    files = int(extract.facts.get("files", 0))
    return f"{files:,} source file{'s' * (files != 1)} of kind {extract.config.get('kind', 'unknown')}"


def limits(about: DatasetFacts) -> list[str]:
    """What a user of the dataset should know of it, a sentence or two each."""
    facts, samples = about.facts, about.samples
    download, curate = about.lineage["download"].config, about.lineage["curate"].config
    filtered = about.lineage["filter"].config if "filter" in about.lineage else {}
    said = [
        "Captions are what web pages say beside or of a picture. Nobody has checked that they are true of it, or kind.",
        "Languages were told by a detector; of captions of a few words it is often wrong.",
        f"Pictures were scaled once ({download.get('image_size')} pixels, {download.get('resize_mode')}) and stored as "
        f"{about.extension}; the originals are not in here.",
    ]
    if not filtered.get("languages"):
        said.append("No language was asked for: captions of all languages are in here.")
    largest, number = next(iter(facts["hosts"].items()), ("", 0))
    if number > samples / 10:
        said.append(f"{number / samples:.0%} of the pictures are of one host, {largest or 'without a name'}.")
    if curate.get("near_duplicate_distance") is None:
        said.append("Near-duplicates of pictures were not looked for.")
    if not _asked(curate, "eval", "overlap"):
        said.append("Pictures of evaluation sets were not looked for: results on one may be too good.")
    if not _asked(curate, "nsfw", "unsafe", "scores"):
        said.append("No model has looked for pictures that are not safe for work, violent or private.")
    return said


def _asked(config: Mapping[str, Any], *words: str) -> bool:
    """Whether a stage was given anything under a name with one of these words."""
    return any(value for name, value in config.items() if any(word in name for word in words))


def rights(about: DatasetFacts) -> list[str]:
    """What is known of licences and wishes."""
    none, samples = about.facts["licenses"].get("", 0), about.samples
    source = about.lineage["extract"].config if "extract" in about.lineage else {}
    said = [
        f"For {samples - none:,} of {samples:,} pairs a licence was declared beside the picture or on its page "
        f"({format_share(samples - none, max(samples, 1))}); the column `license` has its address. It is what the page said, and "
        "says nothing of whether the page was right.",
        "A pair belongs to whoever made its picture and its caption: `url` and `page_url` say where to ask. "
        "`pairmill takedown` removes pairs, and names the models that saw them.",
    ]
    if source.get("opt_out_directives"):
        refused = ", ".join(f"`{word}`" for word in source["opt_out_directives"])
        said.append(f"Pages that say {refused} were left out; so were pictures whose own server says so.")
    return said


def loading(about: DatasetFacts) -> list[tuple[str, str]]:
    """(who reads it, code). The folder is the snapshot's."""
    last, image = f"{about.facts['shards'] - 1:05d}", about.extension
    shards = f"pack/{about.key}/{{00000..{last}}}.tar"
    return [
        ("webdataset", f'webdataset.WebDataset("{shards}", shardshuffle=False).decode("pil").to_tuple("{image}", "txt")'),
        ("open_clip", f'python -m open_clip_train.main --dataset-type webdataset --train-data "{shards}" '
         f"--train-num-samples {about.samples}"),
        ("datasets", f'datasets.load_dataset("webdataset", data_files="pack/{about.key}/*.tar", split="train")'),
        ("one sample", f"pack/{about.key}/00000.idx: per sample `extension offset bytes name` of each member of 00000.tar"),
        ("rows", f'polars.read_parquet("pack/{about.key}/part-*.parquet")'),
    ]  # fmt: skip


def citation(about: DatasetFacts) -> str:
    """A BibTeX entry that names exactly these bytes."""
    return (
        f"@misc{{pairmill-{about.key},\n"
        f"  title = {{Dataset pack/{about.key}: {about.samples:,} pairs of picture and caption}},\n"
        f"  howpublished = {{made with pairmill, seed {about.seed}}},\n"
        f"  note = {{content digest sha256:{about.digest}}}\n"
        f"}}"
    )
