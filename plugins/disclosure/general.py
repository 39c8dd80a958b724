"""Answers to section 1 of the template: the model, its modalities, sizes, dates and languages."""

from collections.abc import Sequence
from datetime import UTC, datetime

from dataops.formatting import format_counts, format_quantity, format_share
from dataops.snapshot import Manifest
from plugins.disclosure.answers import Answer, Answers, fill, leave_open
from plugins.disclosure.domains import Fetched
from plugins.disclosure.subject import Chain, Subject
from tasks.pack.summary import LENGTH_STEP, LENGTH_STEPS
from tasks.register.card import merge_counts
from tasks.tracking.run_metadata import model_name

TEXT_RANGES = ("Less than 1 billion tokens", "1 billion to 10 trillion tokens", "More than 10 trillion tokens")
TEXT_LIMITS = (10**9, 10**13)
IMAGE_RANGES = ("Less than 1 million images", "1 million to 1 billion images", "More than 1 billion images")
IMAGE_LIMITS = (10**6, 10**9)
CHARACTERS_PER_TOKEN = 4
"""Usual number of characters in a token of a text in Latin script."""
LISTED = 12
"""Number of languages that are listed."""
_ABSENT = "Not in the training data, which are images and texts."


def answer_general(subject: Subject, fetched: Fetched) -> Answers:
    """Return the answers to section 1, and to the head of the template."""
    packs = subject.packs
    return {
        "version": leave_open(),
        "last_update": fill(f"{datetime.now(UTC):%d/%m/%Y}"),
        "provider": leave_open(),
        "authorised_representative": leave_open("State `Not applicable` if the provider is established in the Union."),
        **_answer_model(subject),
        "placement_date": leave_open(),
        "text_size": _measure_text(packs),
        "text_content": _describe_text(packs),
        "image_size": _count_images(subject),
        "image_content": _describe_images(subject.chains),
        "audio": fill(_ABSENT),
        "video": fill(_ABSENT),
        "other_modalities": fill(_ABSENT),
        "latest_acquisition": _find_latest(subject, fetched),
        "continuous_training": fill(
            "No. The weights of a version do not change after its training; new data make another version."
            if subject.kind == "model"
            else "No. A dataset does not change after it is made; new data make another one."
        ),
        "languages": _list_languages(packs),
        "other_characteristics": leave_open(
            "Such as national, regional or demographic specificities, as far as known."
        ),
        "general_comments": leave_open(),
    }


def choose_range(number: int, limits: Sequence[int], ranges: Sequence[str]) -> str:
    """Return the range of the template that a number is in; a limit itself belongs to the range above it."""
    return ranges[sum(number >= limit for limit in limits)]


def _answer_model(subject: Subject) -> Answers:
    if subject.train is None:
        note = "This document is about a dataset. The summary of a model that was trained on it answers this field."
        return {"model_names": leave_open(note), "model_dependencies": leave_open(note)}
    train = subject.train
    snapshot = f"train/{train.key}"
    trained = f"CLIP {model_name(train)}, content digest `{train.content_digest}`."
    names = subject.name if subject.name == snapshot else f"{subject.name}, {snapshot}"
    rows = [
        (
            "image and text" if one.tower == "both" else one.tower,
            one.full_name,
            one.license or "not stated",
            one.sha256 or "not known",
        )
        for one in subject.weights
    ]
    if not rows:
        dependencies = fill("None. The training started from random weights.")
    else:
        dependencies = fill(
            "The training started from these weights. Whether one of them is a general-purpose AI model on the market, "
            "and where its own summary is, is not in the lineage.",
            columns=("tower", "weights", "licence", "sha256"),
            rows=rows,
        )
    return {"model_names": fill(f"{names}: {trained}"), "model_dependencies": dependencies}


def _measure_text(packs: Sequence[Manifest]) -> Answer:
    lengths = merge_counts(packs, "lengths")
    if not lengths:
        return leave_open("The manifests do not count the lengths of captions.")
    captions = sum(lengths.values())
    characters = sum(count * (int(step) * LENGTH_STEP + LENGTH_STEP // 2) for step, count in lengths.items() if step)
    tokens = characters // CHARACTERS_PER_TOKEN
    longest = (
        f"; those of more than {LENGTH_STEP * LENGTH_STEPS:,} count as such" if lengths.get(str(LENGTH_STEPS)) else ""
    )
    return fill(
        f"{choose_range(tokens, TEXT_LIMITS, TEXT_RANGES)}.",
        f"{format_quantity(captions, 'caption')} of about {characters:,} characters (counted in steps of {LENGTH_STEP}"
        f"{longest}), about {tokens:,} tokens at {CHARACTERS_PER_TOKEN} characters each.",
    )


def _describe_text(packs: Sequence[Manifest]) -> Answer:
    origins = merge_counts(packs, "caption_sources")
    if not origins:
        return leave_open("The manifests do not count the origins of captions.")
    counts = format_counts((name or "unknown", count) for name, count in origins.items())
    return fill(f"Captions of images, by the place from which they were read: {counts}.")


def _count_images(subject: Subject) -> Answer:
    if not subject.chains:
        return leave_open("No dataset of the training is known any more.")
    uncounted = (
        f" Datasets that are no longer known, and not counted: {', '.join(subject.missing)}." if subject.missing else ""
    )
    range_ = choose_range(subject.pairs, IMAGE_LIMITS, IMAGE_RANGES)
    removed = (
        f" After the training, takedowns deleted {', '.join(f'pack/{key}' for key in subject.replaced)}. The figures of "
        "this document are those of the next version, without the removed pairs."
        if subject.replaced
        else ""
    )
    return fill(f"{range_}.", f"{format_quantity(subject.pairs, 'image')}, each with a caption.{uncounted}{removed}")


def _describe_images(chains: Sequence[Chain]) -> Answer:
    found = dict[str, None]()
    for chain in chains:
        if (download := chain.find("download")) is not None:
            config = download.config
            found[f"{config.get('image_size')} pixels, {config.get('resize_mode')}, {config.get('encode_format')}"] = (
                None
            )
    if not found:
        return leave_open("The manifests of the downloads are no longer known.")
    return fill(
        f"Images that captions of web pages or lists name, scaled ({'; '.join(found)}). What they show (photographs, "
        "drawings, infographics) was not classified."
    )


def _find_latest(subject: Subject, fetched: Fetched) -> Answer:
    if fetched.last:
        return fill(f"{format_month(fetched.last)}. The last image was requested on {fetched.last[:10]}.")
    made = [one.created_at for chain in subject.chains if (one := chain.find("download")) is not None]
    if not made:
        return leave_open("The manifests of the downloads are no longer known.")
    return fill(f"{format_month(max(made))}. The last download ended on {max(made)[:10]}.")


def format_month(time: str) -> str:
    """Return the month of an ISO 8601 time, as the template asks for it: MM/YYYY."""
    return f"{time[5:7]}/{time[:4]}"


def _list_languages(packs: Sequence[Manifest]) -> Answer:
    counts = merge_counts(packs, "languages")
    if not counts:
        return leave_open("The manifests do not count the languages of captions.")
    pairs = max(sum(pack.counts.kept for pack in packs), 1)
    rows = [(name or "not detected", f"{n:,}", format_share(n, pairs)) for name, n in list(counts.items())[:LISTED]]
    known = sum(bool(name) for name in counts)
    more = f" The table has the {LISTED} most frequent values." if len(counts) > LISTED else ""
    text = f"{format_quantity(known, 'language')} of captions, as detected by a program.{more}"
    return fill(text, columns=("language", "captions", "share"), rows=rows)
