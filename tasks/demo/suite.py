"""Write the evaluation sets of the demo in the webdataset layout of CLIP_benchmark; none of their images is trained on.

    <task>/classnames.txt                           one class a line; a .cls file holds the line's number from 0
    <task>/zeroshot_classification_templates.txt    prompts with the placeholder {c}
    <task>/dataset_type.txt                         "classification" or "retrieval"
    <task>/test/nshards.txt, <task>/test/0.tar      {key}.png with {key}.cls, or {key}.txt (captions, one a line)

Source: CLIP_benchmark's `build_wds_dataset` and its README, "Custom webdataset".

Class names are the English CLDR names, which are unique. Prompts are plain and not tuned; that of `digits` is the one that
CLIP's authors published for MNIST. Emoji images are on white (`images.flatten` gives the reason). Twemoji has five images
that belong to two flags each (France, Norway): they are kept, so a perfect model does not reach 100%.
"""

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tasks.demo.emoji_set import Emoji
from tasks.demo.images import encode, flatten_all

EMOJI_TEMPLATES = ("{c}", "an emoji of {c}", "a drawing of {c}", "an icon of {c}", "a picture of {c}.")
DIGIT_TEMPLATES = ('a photo of the number: "{c}".',)
DIGIT_NAMES = tuple(str(digit) for digit in range(10))
CREDITS = (
    "openmoji-heldout, heldout-retrieval: OpenMoji (https://openmoji.org), CC BY-SA 4.0\n"
    "twemoji-seen, twemoji-heldout: Twemoji, (c) Twitter, Inc and other contributors, CC BY 4.0\n"
    "digits: scikit-learn load_digits, from the UCI Optical Recognition of Handwritten Digits, CC BY 4.0\n"
)

Member = tuple[str, bytes]


def build_suite(
    published: Sequence[Emoji], held_out: Sequence[Emoji], pngs: Mapping[str, bytes], root: Path, workers: int = 2
) -> dict[str, int]:
    """Write the five sets below `root`; return the number of images by task.

    Args:
        published: emoji whose OpenMoji image is on the site.
        held_out: emoji of which no variant is on the site.
        pngs: rendered OpenMoji images, by `Emoji.text`.
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
    digits = write_digits(root / "digits")
    (root / "CREDITS.txt").write_text(CREDITS, encoding="utf-8")
    return {
        "twemoji-seen": len(published),
        "twemoji-heldout": len(held_out),
        "openmoji-heldout": len(held_out),
        "heldout-retrieval": len(held_out),
        "digits": digits,
    }


def _write_emoji_classes(task: Path, emojis: Sequence[Emoji], pngs: Sequence[bytes]) -> None:
    _write_classification(task, [one.name for one in emojis], EMOJI_TEMPLATES, pngs, range(len(pngs)))


def _write_classification(
    task: Path, names: Sequence[str], templates: Sequence[str], pngs: Sequence[bytes], classes: Iterable[int]
) -> None:
    members: list[Member] = []
    for number, (png, label) in enumerate(zip(pngs, classes, strict=True)):
        members += [(f"{number:06d}.png", png), (f"{number:06d}.cls", str(label).encode())]
    _write_lines(task / "classnames.txt", names)
    _write_lines(task / "zeroshot_classification_templates.txt", templates)
    _write_shard(task, "classification", members)


def _write_retrieval(task: Path, emojis: Sequence[Emoji], pngs: Sequence[bytes]) -> None:
    """Write a retrieval set. Captions are the English name and the other wordings, without a final newline."""
    members: list[Member] = []
    for number, (one, png) in enumerate(zip(emojis, pngs, strict=True)):
        captions = "\n".join((one.name, *one.wordings))
        members += [(f"{number:06d}.png", png), (f"{number:06d}.txt", captions.encode())]
    _write_shard(task, "retrieval", members)


def write_digits(task: Path) -> int:
    """Write 1,797 scans of 8 x 8 pixels, light ink on black, with values 0..16 scaled to 0..255."""
    scans, labels = load_digits(return_X_y=True)
    grey = np.rint(np.asarray(scans).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    pngs = [encode(Image.fromarray(scan), "PNG") for scan in grey]
    _write_classification(task, DIGIT_NAMES, DIGIT_TEMPLATES, pngs, (int(label) for label in np.asarray(labels)))
    return len(pngs)


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_shard(task: Path, kind: str, members: Sequence[Member]) -> None:
    _write_lines(task / "dataset_type.txt", [kind])
    _write_lines(task / "test" / "nshards.txt", ["1"])
    with tarfile.open(task / "test" / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
