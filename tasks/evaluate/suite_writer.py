"""Write evaluation sets in the webdataset layout of CLIP_benchmark.

    <task>/classnames.txt                           one class a line; a .cls file holds the line's number from 0
    <task>/zeroshot_classification_templates.txt    prompts with the placeholder {c}
    <task>/dataset_type.txt                         "classification" or "retrieval"
    <task>/test/nshards.txt, <task>/test/0.tar      {key}.png or .jpg with {key}.cls, or {key}.txt (captions, one a line)

Source: CLIP_benchmark's `build_wds_dataset` and its README, "Custom webdataset".
"""

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

Member = tuple[str, bytes]


def write_classification(
    task: Path, names: Sequence[str], templates: Sequence[str], images: Sequence[bytes], classes: Iterable[int]
) -> None:
    """Write a set for zero-shot classification: PNG or JPEG images, each with the number of its class from 0."""
    members: list[Member] = []
    for number, (image, label) in enumerate(zip(images, classes, strict=True)):
        suffix = "png" if image.startswith(b"\x89PNG") else "jpg"
        members += [(f"{number:06d}.{suffix}", image), (f"{number:06d}.cls", str(label).encode())]
    _write_lines(task / "classnames.txt", names)
    _write_lines(task / "zeroshot_classification_templates.txt", templates)
    write_shard(task, "classification", members)


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_shard(task: Path, kind: str, members: Iterable[Member], split: str = "test") -> None:
    """Write the one shard of a split of a set of a kind, such as `classification` or `retrieval`."""
    _write_lines(task / "dataset_type.txt", [kind])
    _write_lines(task / split / "nshards.txt", ["1"])
    with tarfile.open(task / split / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
