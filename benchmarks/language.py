"""Compare language detection with langdetect, on real texts in 55 languages.

Ours is that of `filter.language_detector = "langdetect"`; the peers are langdetect with seed 0 and, in speed, pycld2 and
heliport, if they are installed.
Accuracy is measured by set (benchmarks/inputs/texts.py): on each, ours must be at least as accurate as langdetect.
"""

import math
import random
import re
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.lang_detect_exception import LangDetectException

from benchmarks.inputs.texts import read_sets, sample_texts
from benchmarks.measure import Row, copy_speed, finish, make_parser, make_printer, require_peers, time_in_turn
from dataops.language.detect import detect
from dataops.language.profiles import profile_names

CASE, GOAL = "cascade-script", 150
"""Name of our case in results, and its minimum speed as a multiple of langdetect's."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def make_langdetect():
    """Return langdetect with seed 0 and its profiles sorted by name: by default the file system orders them."""
    factory = DetectorFactory()
    factory.load_json_profile([(Path(PROFILES_DIRECTORY) / name).read_text("utf-8") for name in profile_names()])

    def labels(texts):
        factory.set_seed(0)
        answers = []
        for text in texts:
            detector = factory.create()
            detector.append(text)
            try:
                answers.append(detector.detect())
            except LangDetectException:
                answers.append(None)
        return answers

    return labels


def detect_ours(texts):
    """Return our answers."""
    return detect(pa.array([*texts, ""])[:-1], None).labels  # a column of strings where there is none


def make_fast_peers():
    """Return the fast detectors that are installed; they are less often right."""
    found = {}
    with suppress(ImportError):
        import pycld2

        def label(text):
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


def compare_speed(name, run, texts, limit):
    """Return the row of a peer, in texts per second of CPU time."""
    many = list(texts) * 4  # ours is too fast to time once
    batch = texts if name == "langdetect" else many
    for detector in (detect_ours, run):
        detector(texts[:10])  # compile and load
    ours, peer, _, _ = time_in_turn(lambda: detect_ours(many), lambda: run(batch), 2, time.process_time)
    goal = GOAL if name == "langdetect" else 1.0
    return Row(CASE, len(many) / ours, len(batch) / peer, name, "captions/s/core", goal, limit)


def mark_answers(answers, labelled):
    """Return whether each answer is the language of its text."""
    pairs = zip(answers, labelled, strict=True)
    return [answer is not None and answer.split("-")[0] == code.split("-")[0] for answer, (code, _) in pairs]


def count_by_set(sets):
    """Return the number of correct answers of ours and of langdetect by set, and of those that only one has."""
    found, langdetect = {}, make_langdetect()
    for name, labelled in sets.items():
        texts = [text for _, text in labelled]
        ours, theirs = (mark_answers(run(texts), labelled) for run in (detect_ours, langdetect))
        pairs = list(zip(ours, theirs, strict=True))
        found[name] = {"texts": len(texts), "ours": sum(ours), "langdetect": sum(theirs)}
        found[name] |= {"only ours": pairs.count((True, False)), "only langdetect": pairs.count((False, True))}
    return found


def main():
    """Run the benchmark."""
    options = make_parser(__doc__).parse_args()
    say = make_printer(options.json)
    require_peers("emoji", "babel", "django")
    sets = read_sets()
    each = (2000 if options.quick else 13_000) // len(sets)
    texts = [text for labelled in sets.values() for _, text in sample_texts(labelled, each)]
    random.Random(0).shuffle(texts)
    # langdetect takes 2 ms a text: a sample of each set
    counts = count_by_set({name: sample_texts(some, 400 if options.quick else 20_000) for name, some in sets.items()})
    lower = []
    for name, found in counts.items():
        say(f"{name}: correct of {found['texts']:,}: ours {found['ours']:,}, langdetect {found['langdetect']:,}")
        gained, lost = found["only ours"], found["only langdetect"]
        lower += [name] if lost - gained > 2 * math.sqrt(gained + lost) else []  # the error of a sample
    limit = copy_speed(texts)
    peers = {"langdetect": make_langdetect(), **make_fast_peers()}
    rows = [compare_speed(name, run, texts, limit) for name, run in peers.items()]
    packages = ["langdetect", "numba", "numpy"]
    details = {"right": counts, "lower": lower}
    return finish("language", rows, packages, equal=not lower, as_json=options.json, details=details)


if __name__ == "__main__":
    raise SystemExit(main())
