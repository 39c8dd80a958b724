"""The sentences of a dataset's pages: its sources, its limits, its licences, how to read it and how to cite it.

Each sentence follows from the manifests, also about checks that were not made. What stands in back quotes is code.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import yaml

from dataops import plugins
from dataops.facts import PackFacts
from dataops.formatting import format_bytes, format_quantity, format_share
from dataops.rights.licenses import DeclaredLicense, list_licenses, name_declared, name_stated, state_facts
from dataops.schema import CAPTIONS, CURATED, find_added_columns
from dataops.snapshot import Counts, Manifest, Part, content_digest
from dataops.trace import sources
from dataops.trace.lineages import Lineage, list_made, merge_lineages
from tasks.curate.step import describe_steps
from tasks.engine.stage import Work
from tasks.pack.config import PackConfig


@dataclass(frozen=True)
class DatasetFacts:
    """A dataset whose parts are written and whose manifest is not."""

    key: str
    seed: int
    digest: str
    facts: PackFacts
    config: Mapping[str, Any]
    lineages: Sequence[Lineage]
    """Snapshots that it was made of, as far as they are in the store: those of each run that added to it, oldest first."""
    counts: Counts
    parts: Sequence[Part] = ()
    license: str = ""
    """Licence that the owner states for the dataset as a whole; "": only those of its pairs are known."""
    location: str = ""
    """Folder of the dataset in the code of readers; "": its folder in the store."""
    hub: str = ""
    """`OWNER/NAME` of the dataset on the Hub, if it is published there."""
    packs: Mapping[str, int] = field(default_factory=dict[str, int])
    """Of a version of a dataset that grows, the number of shards of each of its datasets, by key."""

    @classmethod
    def collect(
        cls,
        work: Work[PackConfig],
        counts: Counts,
        facts: PackFacts,
        parts: list[Part],
        lineages: Sequence[Lineage],
    ) -> "DatasetFacts":
        """Return the facts of a dataset that is being made."""
        ordered = sorted(parts, key=lambda part: part.name)
        config = work.config.key_config()
        return cls(work.draft.key, work.seed, content_digest(parts), facts, config, lineages, counts, ordered)

    @classmethod
    def read(
        cls, pack: Manifest, lineages: Sequence[Lineage], license_: str = "", hub: str = "", location: str = "."
    ) -> "DatasetFacts":
        """Return the facts of a complete dataset, for a copy of it elsewhere or a document about it.

        Args:
            pack: a snapshot, or a version of a dataset that grows (tasks.pack.union.Union).
        """
        packs = {one.key: PackFacts.of(one).shards for one in getattr(pack, "packs", ())}
        facts, named = PackFacts.of(pack), (license_, location, hub, packs)
        return cls(
            pack.key, pack.seed, pack.content_digest, facts, pack.config, lineages, pack.counts, pack.parts, *named
        )

    @cached_property
    def lineage(self) -> dict[str, Manifest]:
        """The snapshots by stage, first stage first; those of several runs as one, with the counts of all."""
        return {stage: one for stage, one in merge_lineages(self.lineages).items() if stage != "pack"}

    def list_made(self, stage: str) -> list[Manifest]:
        """Return the snapshots of a stage, oldest first."""
        return list_made(self.lineages, stage)

    @property
    def pack_keys(self) -> str:
        """Keys of the datasets."""
        return ", ".join(self.packs) or self.key

    @property
    def name(self) -> str:
        """Name by which commands find it."""
        return self.key if self.packs else f"pack/{self.key}"

    @property
    def first_part(self) -> str:
        """Name of a part with rows, whose schema all parts have."""
        rows = (part.name for part in self.parts if part.name.rpartition("/")[2].startswith("part-"))
        return min(rows, default="part-00000.parquet")

    @property
    def columns(self) -> "list[pa.Field[Any]]":
        """Columns of the rows; of those that steps of curate added, the known ones."""
        known = [*(column.field for column in find_added_columns().values()), CAPTIONS]
        return [*CURATED, *(field for field in known if field.name in self.facts.columns)]

    @property
    def samples(self) -> int:
        """Number of pairs."""
        return self.facts.samples

    @property
    def licenses(self) -> list[DeclaredLicense]:
        """The declared licences of the pairs, most frequent first."""
        return list_licenses(self.facts.licenses, self.samples)

    @property
    def image_extension(self) -> str:
        """File name extension of the images."""
        return str(self.lineage["download"].config["encode_format"])


@dataclass(frozen=True)
class Document:
    """A document that pack writes beside the shards of each dataset: an object registered in `pairmill.documents`."""

    file: str
    """Its name: one of dataops.snapshot.UNDIGESTED, or one that begins with `evidence-`: no digest covers it."""
    write: Callable[[DatasetFacts], str]


def write_headline(dataset: DatasetFacts) -> str:
    """Return the numbers of pairs, shards and bytes as a sentence."""
    shards, size = format_quantity(dataset.facts.shards, "shard"), format_bytes(dataset.facts.bytes)
    return f"{format_quantity(dataset.samples, 'pair')} of image and caption in {shards}, {size}."


def describe_sources(dataset: DatasetFacts) -> str:
    """Return the number and the kind of the files of each source, with which the funnel begins."""
    extract = dataset.lineage.get("extract")
    return "snapshots that are no longer in the store" if extract is None else sources.describe_sources(extract)


def list_source_rows(dataset: DatasetFacts) -> list[dict[str, Any]]:
    """Return what the pages show of each named source, in the order in which duplicates are kept."""
    counted = dataset.facts.sources
    filtered = sources.count_filtered(dataset.lineage)
    return [
        {
            "name": source.name,
            "kind": source.kind,
            "license": source.license or "",
            "files": source.files,
            "extracted": source.counts.kept,
            "filtered": filtered.get(source.name, 0),
            "pairs": counted.get(source.name, 0),
            "share": format_share(counted.get(source.name, 0), max(dataset.samples, 1)),
        }
        for source in sources.list_named_sources(dataset.lineage)
    ]


def list_limits(dataset: DatasetFacts) -> list[str]:
    """Return what a user of the dataset should know of it, one or two sentences each."""
    facts, samples = dataset.facts, dataset.samples
    curate = dataset.lineage["curate"].config
    filtered = dataset.lineage["filter"].config if "filter" in dataset.lineage else {}
    from_files = set(facts.hosts) == {""}
    captions = (
        "those of files that the sources name" if from_files else "the text of web pages beside or about an image"
    )
    sentences = [
        f"Captions are {captions}. Nobody has checked that they are true, or kind.",
        "A detector detected the languages; for captions of a few words it is often wrong.",
        describe_scaling(dataset),
        *describe_steps(dataset.lineage["curate"]),
    ]
    if not filtered.get("languages"):
        sentences.append("Captions were not filtered by language: all languages are in the dataset.")
    host, count = next(iter(facts.hosts.items()), ("", 0))
    if host and count > samples / 10:
        sentences.append(f"{count / samples:.0%} of the images are from one host, {host}.")
    if curate.get("near_duplicate_distance") is None:
        sentences.append("Near-duplicate images were not searched for.")
    if not _has_setting(curate, "eval", "overlap"):
        sentences.append("Images of evaluation sets were not searched for: results on one may be too good.")
    if not _has_setting(curate, "nsfw", "unsafe", "scores"):
        sentences.append("No model has searched for images that are not safe for work, violent or private.")
    return sentences


def describe_scaling(dataset: DatasetFacts) -> str:
    """Return what was done to the images."""
    download = dataset.lineage["download"].config
    return (
        f"Images were scaled once ({download.get('image_size')} pixels, {download.get('resize_mode')}) and stored as "
        f"{dataset.image_extension}; the originals are not in the dataset."
    )


def _has_setting(config: Mapping[str, object], *words: str) -> bool:
    """Return whether a config has a value under a name that contains one of the words."""
    return any(value for name, value in config.items() if any(word in name for word in words))


def list_rights(dataset: DatasetFacts) -> list[str]:
    """Return what is known of licences and of opt-outs, one or two sentences each."""
    licensed, samples = dataset.samples - dataset.facts.licenses.get("", 0), dataset.samples
    extract = dataset.lineage.get("extract")
    sentences = [
        f"For {licensed:,} of {format_quantity(samples, 'pair')} a licence was declared beside the image or on its page"
        f"{_or_by_source(extract)} "
        f"({format_share(licensed, max(samples, 1))}); the column `license` has its URL. Whether the page was right "
        "has not been checked.",
        *state_facts(dataset.licenses, samples),
        "A pair belongs to whoever made its image and its caption: `url` and `page_url` name where to ask. "
        "`pairmill takedown` removes pairs, and names the models that were trained on them.",
    ]
    sentences += [
        f"The config states the licence `{source.license}` for pairs{_of_source(source.name)} without a declared one."
        for source in (sources.list_sources(extract) if extract else ())
        if source.license
    ]
    for config in extract.config.get("sources", [extract.config]) if extract else ():
        if config.get("opt_out_directives"):
            words = ", ".join(f"`{word}`" for word in config["opt_out_directives"])
            pages = f"Pages{_of_source(config.get('name', ''))}"
            sentences.append(
                f"{pages} with the directives {words} were dropped, and so were images whose server sends one."
            )
    return sentences


def _of_source(name: str) -> str:
    return f" of the source `{name}`" if name else ""


def _or_by_source(extract: Manifest | None) -> str:
    """Return words for a licence that the config states for a source, if it states one."""
    is_stated = extract is not None and any(source.license for source in sources.list_sources(extract))
    return ", or by the config for its source" if is_stated else ""


def list_readers(dataset: DatasetFacts) -> list[tuple[str, str]]:
    """Return the names of tools that read the dataset, each with code that runs in the folder of the store."""
    folder, image = dataset.location or f"pack/{dataset.key}", dataset.image_extension
    folders = {f"{folder}/{key}": number for key, number in dataset.packs.items()} or {folder: dataset.facts.shards}
    shards = "::".join(f"{one}/{{00000..{number - 1:05d}}}.tar" for one, number in folders.items())
    tars, tables = (_write_list([f"{one}/{names}" for one in folders]) for names in ("*.tar", "part-*.parquet"))
    first = next(iter(folders))
    on_hub = [
        ("the Hub", "import datasets\n"
         f'dataset = datasets.load_dataset("{dataset.hub}", split="train")\n'
         f"hf download {dataset.hub} --repo-type dataset --local-dir .  # for the calls below"),
    ]  # fmt: skip
    return [
        *(on_hub if dataset.hub else ()),
        ("webdataset", "import webdataset\n"
         f'dataset = webdataset.WebDataset("{shards}", shardshuffle=False)\n'
         f'pairs = dataset.decode("pil").to_tuple("{image}", "txt")'),
        # Its loader has no more workers than shards.
        ("open_clip", "pip install 'open_clip_torch[training]'\n"
         f'python -m open_clip_train.main --dataset-type webdataset --train-data "{shards}" '
         f"--train-num-samples {dataset.samples} --workers {min(dataset.facts.shards, 4)}"),
        # Without features, datasets infers them from five samples: a column that is null in these has no type.
        ("datasets", "import datasets, pyarrow.parquet\n"
         f'schema = pyarrow.parquet.read_schema("{folder}/{dataset.first_part}")\n'
         "features = datasets.Features(\n"
         f'    {{"{image}": datasets.Image(), "txt": datasets.Value("string"), '
         '"json": datasets.Features.from_arrow_schema(schema)}\n'
         ")\n"
         f'dataset = datasets.load_dataset("webdataset", data_files={tars}, split="train", features=features)'),
        ("one sample", f"{first}/00000.idx: for each sample `extension offset bytes name` of each member of "
         "00000.tar"),
        ("rows", f"import polars\nrows = polars.read_parquet({tables})"),
    ]  # fmt: skip


def _write_list(names: Sequence[str]) -> str:
    """Return a string of Python, or a list of several."""
    return f'"{names[0]}"' if len(names) == 1 else json.dumps(names)


def write_citation(dataset: DatasetFacts) -> str:
    """Return a BibTeX entry that names exactly these bytes."""
    return (
        f"@misc{{pairmill-{dataset.key.replace('/', '-')},\n"
        f"  title = {{Dataset {dataset.name}: {format_quantity(dataset.samples, 'pair')} of image and caption}},\n"
        f"  howpublished = {{made with pairmill, seed {dataset.seed}}},\n"
        f"  note = {{content digest sha256:{dataset.digest}}}\n"
        f"}}"
    )


TAGS = ("image-text-pairs", "webdataset", "clip", "pairmill")
TASKS = ("zero-shot-image-classification", "image-to-text", "text-to-image")
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B",
         "10B<n<100B", "100B<n<1T", "n>1T")  # fmt: skip
"""The Hub's size categories, by the number of digits: the first has up to three."""
_TYPES = {"float": "float32", "double": "float64"}
"""Names of `datasets` for types that Arrow calls otherwise."""
_LANGUAGE = re.compile(r"([a-z]{2,3})(?:[-_][A-Za-z0-9]+)*")


def write_front_matter(dataset: DatasetFacts) -> str:
    """Return the front matter with the two lines that delimit it.

    It has no text from the web: licences and languages enter by their names only.
    """
    return f"---\n{yaml.safe_dump(describe_card(dataset), sort_keys=False, width=100)}---\n"


def describe_card(dataset: DatasetFacts) -> dict[str, Any]:
    """Return the fields of the front matter."""
    languages = (_LANGUAGE.fullmatch(name) for name in dataset.facts.languages)
    known = sorted({found[1] for found in languages if found})
    samples = [
        {"name": dataset.image_extension, "dtype": "image"},
        {"name": "txt", "dtype": "string"},
        {"name": "json", **_describe_type(pa.struct(dataset.columns))},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]
    return {
        "pretty_name": f"Dataset {dataset.key}",
        **(name_stated(dataset.license) if dataset.license else name_declared(dataset.facts.licenses)),
        **({"language": known} if known else {}),
        "size_categories": [SIZES[max(min(len(str(dataset.samples)), 13) - 3, 0)]],
        "task_categories": list(TASKS),
        "tags": [*TAGS, *plugins.load("documents")],
        # `datasets` infers features from five samples, and fails on a column that is null in these; so they are given
        "dataset_info": {"features": samples},
        # one config: all configs of a dataset have one format, and the tables are Parquet
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "*/*.tar" if dataset.packs else "*.tar"}],
            }
        ],
    }


def _describe_type(type_: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(type_):
        return {"struct": [{"name": field.name, **_describe_type(field.type)} for field in type_.fields]}
    if pa.types.is_list(type_):
        inner = _describe_type(type_.value_type)
        return {"list": inner if "list" in inner else next(iter(inner.values()))}
    return {"dtype": _TYPES.get(str(type_), str(type_))}
