"""Compare language detection with langdetect, on real texts in 55 languages.

Ours is that of `filter.language_detector = "langdetect"`; the peers are langdetect with seed 0 and, in speed, pycld2 and
heliport, if they are installed.
Accuracy is measured by set (benchmarks/inputs/texts.py): on each, ours must be at least as accurate as langdetect.
"""

import math
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.lang_detect_exception import LangDetectException

from benchmarks.inputs.texts import Labelled, read_sets, sample_texts
from benchmarks.measure import Row, copy_speed, finish, make_parser, make_printer
from dataops.language.detect import detect
from dataops.language.profiles import profile_names

CASE, GOAL = "cascade-script", 150
"""Name of our case in results, and its minimum speed as a multiple of langdetect's."""
Labels = list[str | None]
Detect = Callable[[Sequence[str]], Labels]
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def make_langdetect() -> Detect:
    """Return langdetect with seed 0 and its profiles sorted by name: by default the file system orders them."""
    factory = DetectorFactory()
    factory.load_json_profile([(Path(PROFILES_DIRECTORY) / name).read_text("utf-8") for name in profile_names()])

    def labels(texts: Sequence[str]) -> Labels:
        factory.set_seed(0)
        answers: Labels = []
        for text in texts:
            detector = factory.create()
            detector.append(text)
            try:
                answers.append(detector.detect())
            except LangDetectException:
                answers.append(None)
        return answers

    return labels


def detect_ours(texts: Sequence[str]) -> Labels:
    """Return our answers."""
    return detect(pa.array([*texts, ""])[:-1], None).labels  # a column of strings where there is none


def make_fast_peers() -> dict[str, Detect]:
    """Return the fast detectors that are installed; they are less often right."""
    found: dict[str, Detect] = {}
    with suppress(ImportError):
        import pycld2

        def label(text: str) -> str | None:
            try:
                return pycld2.detect(_CONTROLS.sub(" ", text).encode(), isPlainText=True, bestEffort=True)[2][0][1]
            except pycld2.error:  # it rejects some characters as broken UTF-8
                return None

        found["pycld2"] = lambda texts: list(map(label, texts))
    with suppress(ImportError):
        from heliport import Identifier

        identify = Identifier().identify
        found["heliport"] = lambda texts: list(map(identify, texts))
    return found


def measure_speed(texts: Sequence[str], times: int, repeat: int) -> dict[str, float]:
    """Return texts per second of CPU time of each detector, measured in turn."""
    runs: dict[str, Detect] = {CASE: detect_ours, "langdetect": make_langdetect(), **make_fast_peers()}
    for run in runs.values():
        run(texts[:10])  # compile and load
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(times):
        for name, run in runs.items():
            batch = texts if name == "langdetect" else list(texts) * repeat  # ours is too fast to time once
            started = time.process_time()
            run(batch)
            seconds[name].append((time.process_time() - started) / len(batch))
    return {name: 1 / statistics.median(found) for name, found in seconds.items()}


def mark_answers(answers: Labels, labelled: Labelled) -> list[bool]:
    """Return whether each answer is the language of its text."""
    pairs = zip(answers, labelled, strict=True)
    return [answer is not None and answer.split("-")[0] == code.split("-")[0] for answer, (code, _) in pairs]


def count_by_set(sets: Mapping[str, Labelled]) -> dict[str, dict[str, int]]:
    """Return the number of correct answers of ours and of langdetect by set, and of those that only one has."""
    found, langdetect = {}, make_langdetect()
    for name, labelled in sets.items():
        texts = [text for _, text in labelled]
        ours, theirs = (mark_answers(run(texts), labelled) for run in (detect_ours, langdetect))
        pairs = list(zip(ours, theirs, strict=True))
        found[name] = {"texts": len(texts), "ours": sum(ours), "langdetect": sum(theirs)}
        found[name] |= {"only ours": pairs.count((True, False)), "only langdetect": pairs.count((False, True))}
    return found


def main() -> int:
    """Run the benchmark."""
    options = make_parser(__doc__ or "").parse_args()
    say = make_printer(options.json)
    sets, missing = read_sets()
    for name, remedy in missing.items():
        say(f"skipped {name}: {remedy}")
    each = (2000 if options.quick else 13_000) // len(sets)
    texts = [text for labelled in sets.values() for _, text in sample_texts(labelled, each)]
    random.Random(0).shuffle(texts)
    speeds = measure_speed(texts, 2, 4)
    # langdetect takes 2 ms a text: a sample of each set
    counts = count_by_set({name: sample_texts(some, 400 if options.quick else 20_000) for name, some in sets.items()})
    lower = []
    for name, found in counts.items():
        say(f"{name}: correct of {found['texts']:,}: ours {found['ours']:,}, langdetect {found['langdetect']:,}")
        gained, lost = found["only ours"], found["only langdetect"]
        lower += [name] if lost - gained > 2 * math.sqrt(gained + lost) else []  # the error of a sample
    limit = copy_speed(texts)
    rows = [
        Row(CASE, speeds[CASE], speed, name, "captions/s/core", GOAL if name == "langdetect" else 1.0, limit)
        for name, speed in speeds.items()
        if name != CASE
    ]
    packages = ["langdetect", "numba", "numpy"]
    details = {"right": counts, "lower": lower, "skipped": missing}
    return finish("language", rows, packages, equal=not lower, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
