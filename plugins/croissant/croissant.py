"""`croissant.json`: a dataset's description in Croissant 1.1 with its RAI extension, from the manifests alone.

Source: MLCommons, "Croissant Format Specification 1.1" and "Croissant RAI Specification 1.0".
"""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from dataops.facts import funnel_stages
from dataops.formatting import format_counts, format_quantity, format_share
from dataops.schema import find_meanings
from dataops.trace.sources import list_sources
from tasks.pack.card_text import (
    DatasetFacts,
    Document,
    describe_scaling,
    describe_sources,
    list_limits,
    list_rights,
    write_citation,
    write_headline,
)

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TYPES = {"string": "sc:Text", "bool": "sc:Boolean", "float": "cr:Float32", "double": "cr:Float64"}
"""Data types by Arrow's names; those of integers differ in capitals only."""
_URLS = frozenset({"url", "page_url", "license"})
_KEY = "([0-9a-f]{32})"
"""The key of a sample in the name of its members. mlcroissant applies it twice, so it matches the key itself too."""
_PERSONAL = {
    "drop": "Captions with an e-mail address, a URL, a telephone number or a street address were dropped.",
    "mask": "E-mail addresses, URLs, telephone numbers and street addresses in captions were masked.",
}


def write_croissant(dataset: DatasetFacts) -> str:
    """Return the document as JSON text, in ASCII: texts from the web are spelt out."""
    return json.dumps(describe_dataset(dataset), indent=1) + "\n"


DOCUMENT = Document("croissant.json", write_croissant)


def describe_dataset(dataset: DatasetFacts) -> dict[str, Any]:
    """Return the document."""
    made = max((one.created_at for one in dataset.lineage.values()), default="")[:10]
    licenses = [dataset.license] if dataset.license else [url for url in dataset.facts.licenses if url]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": f"pairmill-{dataset.key.replace('/', '-')}",
        "description": " ".join([write_headline(dataset), *list_rights(dataset)]).replace("`", ""),
        "version": f"1.0.0+{dataset.digest[:16]}",
        "identifier": f"sha256:{dataset.digest}",
        **({"dateCreated": made, "datePublished": made} if made else {}),
        **({"license": licenses} if licenses else {}),
        **({"inLanguage": found} if (found := [name for name in dataset.facts.languages if name]) else {}),
        "keywords": ["image-text pairs", "CLIP", "WebDataset"],
        "citeAs": write_citation(dataset),
        "distribution": list(_list_files(dataset)),
        "recordSet": [_describe_pairs(dataset), _describe_samples()],
        **_describe_responsibly(dataset),
    }


def _list_files(dataset: DatasetFacts) -> Iterator[dict[str, Any]]:
    """Yield the shards, their images, and the tables of rows."""
    shards = [part for part in dataset.parts if part.name.endswith(".tar")]
    for part in shards:
        yield {
            "@type": "cr:FileObject",
            "@id": part.name,
            "name": part.name,
            "contentUrl": part.name,
            "contentSize": f"{part.bytes} B",
            "encodingFormat": "application/x-tar",
            "sha256": part.sha256,
        }
    kind = {"jpg": "jpeg"}.get(dataset.image_extension, dataset.image_extension)
    yield {
        "@type": "cr:FileSet",
        "@id": "images",
        "name": "images",
        "description": "The images of the samples, in the shards.",
        "containedIn": [{"@id": part.name} for part in shards],
        "encodingFormat": f"image/{kind}",
        "includes": f"*.{dataset.image_extension}",
    }
    yield {
        "@type": "cr:FileSet",
        "@id": "tables",
        "name": "tables",
        "description": "The rows of each shard as a table.",
        "encodingFormat": "application/x-parquet",
        "includes": "*/part-*.parquet" if dataset.packs else "part-*.parquet",
    }


def _describe_pairs(dataset: DatasetFacts) -> dict[str, Any]:
    fields = [_describe_column(column) for column in dataset.columns]
    about = "The rows of all pairs, without images."
    names = {"@id": "pairs", "name": "pairs", "description": about, "key": {"@id": "pairs/uid"}}
    return {"@type": "cr:RecordSet", **names, "field": fields}


def _describe_column(column: "pa.Field[Any]", parent: str = "") -> dict[str, Any]:
    inner, depth = column.type, 0
    while pa.types.is_list(inner):
        inner, depth = inner.value_type, depth + 1
    shape = {"isArray": True, "arrayShape": ",".join(["-1"] * depth)} if depth else {}
    source: dict[str, Any] = {"fileSet": {"@id": "tables"}, "extract": {"column": parent or column.name}}
    if parent:
        source["transform"] = {"jsonPath": column.name}
    if pa.types.is_struct(inner):
        content: dict[str, Any] = {"subField": [_describe_column(one, column.name) for one in inner.fields]}
    else:
        content = {"dataType": "sc:URL" if column.name in _URLS else _name_type(inner), "source": source}
    return {
        "@type": "cr:Field",
        "@id": "/".join(filter(None, ("pairs", parent, column.name))),
        "name": column.name,
        "description": find_meanings()[column.name].replace("`", ""),
        **shape,
        **content,
    }


def _name_type(type_: pa.DataType) -> str:
    name = str(type_)
    return _TYPES.get(name) or f"cr:{name.replace('int', 'Int').replace('u', 'U')}"


def _describe_samples() -> dict[str, Any]:
    key = {"fileSet": {"@id": "images"}, "extract": {"fileProperty": "filename"}, "transform": {"regex": _KEY}}
    image = {"fileSet": {"@id": "images"}, "extract": {"fileProperty": "content"}}
    fields = [
        {
            **_name_field("key", "Key of the sample: the uid of its pair.", "sc:Text"),
            "references": {"fileSet": {"@id": "tables"}, "extract": {"column": "key"}},
            "source": key,
        },
        {**_name_field("image", "The image.", "sc:ImageObject"), "source": image},
        {
            **_name_field("caption", find_meanings()["caption"], "sc:Text"),
            "source": {"fileSet": {"@id": "tables"}, "extract": {"column": "caption"}},
        },
    ]
    about = "Each image with its caption."
    names = {"@id": "samples", "name": "samples", "description": about, "key": {"@id": "samples/key"}}
    return {"@type": "cr:RecordSet", **names, "field": fields}


def _name_field(name: str, description: str, type_: str) -> dict[str, Any]:
    field = {"@type": "cr:Field", "@id": f"samples/{name}", "name": name, "description": description}
    return {**field, "dataType": type_}


def _describe_responsibly(dataset: DatasetFacts) -> dict[str, Any]:
    """Return the fields of the RAI extension for which the manifests have an answer."""
    facts = dataset.facts
    sources = list_sources(extract) if (extract := dataset.lineage.get("extract")) else []
    is_secondary = any(source.provenance != "crawl" for source in sources)
    from_files = set(facts.hosts) == {""}
    scraped = [] if from_files else ["Web Scraping"]
    collected = [*scraped, *(["Secondary Data Analysis"] if is_secondary else [])]
    read = "read from the same files" if from_files else "downloaded from their URLs"
    captions = format_counts((name or "unknown", count) for name, count in facts.caption_sources.items())
    raw = [
        f"download/{one.key}, with the content digest sha256:{one.content_digest}"
        for one in dataset.list_made("download")
    ]
    found: dict[str, Any] = {
        "dataCollection": f"Pairs of an image URL and a caption were read from {describe_sources(dataset)}. The images "
        f"were then {read}.",
        "dataCollectionType": collected,
        # when pairs were read and images fetched; the vocabulary has the second name, and mlcroissant reads the first
        **dict.fromkeys(
            ("dataCollectionTimeFrame", "dataCollectionTimeframe"),
            sorted({one.created_at[:10] for stage in ("extract", "download") for one in dataset.list_made(stage)}),
        ),
        "dataCollectionRawData": "The images as downloaded and scaled are the "
        f"{'snapshots' if raw[1:] else 'snapshot'} {'; '.join(raw)}.",
        "dataCollectionMissingData": _count_missing(dataset),
        "dataPreprocessingProtocol": [
            f"{stage['stage']} kept {stage['kept']:,} of {format_quantity(stage['input'], 'pair')}"
            + (f"; dropped: {format_counts(stage['reasons'].items())}" if stage["reasons"] else "")
            for stage in funnel_stages(dataset.lineage.values())
        ],
        "dataManipulationProtocol": describe_scaling(dataset),
        "dataAnnotationProtocol": [
            f"Captions are texts of web pages, by origin: {captions}. Nobody wrote them for it."
        ],
        "machineAnnotationTools": _list_tools(dataset),
        "dataLimitations": list_limits(dataset),
        "dataBiases": [
            f"Most frequent {title}: {format_counts((name or 'none', n) for name, n in list(counts.items())[:8])}."
            for counts, title in ((facts.languages, "languages"), (facts.hosts, "hosts of images"))
        ],
        "dataUseCases": ["Training and evaluation of models of images and texts, such as CLIP."],
        "personalSensitiveInformation": _describe_persons(dataset),
        "dataReleaseMaintenancePlan": "A request to remove a pair is recorded, and the next version of the dataset is "
        "made without the pair. Models that were trained on it are tagged. "
        f"Requests applied to this version: {len(facts.takedowns)}.",
    }
    return {f"rai:{name}": value for name, value in found.items() if value}


def _count_missing(dataset: DatasetFacts) -> str:
    counted = {
        "without a declared licence": dataset.facts.licenses.get("", 0),
        "without a detected language": dataset.facts.languages.get("", 0),
    }
    pairs = [f"{count:,} {what} ({format_share(count, max(dataset.samples, 1))})" for what, count in counted.items()]
    return f"Of {format_quantity(dataset.samples, 'pair')}: {', '.join(pairs)}. Missing values are null."


def _list_tools(dataset: DatasetFacts) -> list[str]:
    """Return what models and detectors have added to the rows."""
    curate = dataset.lineage["curate"].config
    found = []
    if set(dataset.facts.languages) - {""}:
        detector = dataset.lineage["filter"].config.get("language_detector") if "filter" in dataset.lineage else None
        found.append(f"Languages of captions: {detector or 'a detector'}.")
    if curate.get("near_duplicate_distance") is not None:
        found.append("Near-duplicates: perceptual hashes of the images.")
    meanings = find_meanings()
    return [*found, *(f"{meanings.get(name, name)} Column {name}." for name in curate.get("scores") or ())]


def _describe_persons(dataset: DatasetFacts) -> list[str]:
    filtered = dataset.lineage["filter"].config if "filter" in dataset.lineage else {}
    found = [
        "Images may show persons, and captions may name them.",
        _PERSONAL.get(str(filtered.get("personal")), "Captions were not searched for personal data."),
    ]
    if "faces" in (dataset.lineage["curate"].config.get("scores") or ()):
        found.append("A detector counted the faces of each image: column faces.")
    return found
