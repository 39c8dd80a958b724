"""Write the evaluation sets of the demo (tasks/evaluate/suite_writer.py); none of their images is trained on.

Class names are the English CLDR names, which are unique. Prompts are plain and not tuned. Emoji images are on white
(`images.flatten` gives the reason). Twemoji has five images that belong to two flags each (France, Norway): they are kept,
so a perfect model does not reach 100%.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from plugins.demo.emoji_set import Emoji
from plugins.demo.groceries import Photo, load_names
from plugins.demo.images import flatten_all
from tasks.evaluate.suite_writer import Member, write_classification, write_shard

EMOJI_TEMPLATES = ("{c}", "an emoji of {c}", "a drawing of {c}", "an icon of {c}", "a picture of {c}.")
PHOTO_TEMPLATES = ("{c}", "a photo of {c}.", "a picture of {c}.")
CREDITS = (
    "openmoji-heldout, heldout-retrieval: OpenMoji (https://openmoji.org), CC BY-SA 4.0\n"
    "twemoji-seen, twemoji-heldout: Twemoji, (c) Twitter, Inc and other contributors, CC BY 4.0\n"
    "groceries: GroceryStoreDataset (https://github.com/marcusklasson/GroceryStoreDataset), (c) 2019 Marcus Klasson, MIT\n"
)


def build_suite(
    published: Sequence[Emoji],
    held_out: Sequence[Emoji],
    pngs: Mapping[str, bytes],
    photos: Sequence[Photo],
    root: Path,
    workers: int = 2,
) -> None:
    """Write the sets below `root`.

    Args:
        published: emoji whose OpenMoji image is on the site.
        held_out: emoji of which no variant is on the site.
        pngs: rendered OpenMoji images, by `Emoji.text`.
        photos: photographs that are not on the site.
        root: folder of the tasks' folders.
        workers: processes that flatten images.
    """
    twemoji = [one.twemoji_png.read_bytes() for one in (*published, *held_out)]
    flat = flatten_all([*twemoji, *(pngs[one.text] for one in held_out)], workers)
    seen, unseen, own = flat[: len(published)], flat[len(published) : len(twemoji)], flat[len(twemoji) :]
    _write_emoji_classes(root / "twemoji-seen", published, seen)
    _write_emoji_classes(root / "twemoji-heldout", held_out, unseen)
    _write_emoji_classes(root / "openmoji-heldout", held_out, own)
    _write_retrieval(root / "heldout-retrieval", held_out, own)
    _write_groceries(root, photos)
    (root / "CREDITS.txt").write_text(CREDITS, encoding="utf-8")


def _write_emoji_classes(task: Path, emojis: Sequence[Emoji], pngs: Sequence[bytes]) -> None:
    write_classification(task, [one.name for one in emojis], EMOJI_TEMPLATES, pngs, range(len(pngs)))


def _write_groceries(root: Path, photos: Sequence[Photo]) -> None:
    """Write the photographs with the English names of their kinds, and with those of each language as an objective."""
    kinds, *others = load_names().items()
    images, classes = [one.jpeg for one in photos], [kinds[1].index(one.kind) for one in photos]
    write_classification(root / "groceries", kinds[1], PHOTO_TEMPLATES, images, classes)
    names = [f"{language}:{name}" for language, found in others for name in found]
    templates = [f"{language}:{{c}}" for language, _ in others]
    write_classification(root / "groceries-languages", names, templates, images, classes)


def _write_retrieval(task: Path, emojis: Sequence[Emoji], pngs: Sequence[bytes]) -> None:
    """Write a retrieval set. Captions are the English name and the other wordings, without a final newline."""
    members: list[Member] = []
    for number, (one, png) in enumerate(zip(emojis, pngs, strict=True)):
        captions = "\n".join((one.name, *one.wordings))
        members += [(f"{number:06d}.png", png), (f"{number:06d}.txt", captions.encode())]
    write_shard(task, "retrieval", members)
