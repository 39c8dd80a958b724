"""OpenAI's vocabulary of 49,408 tokens, as open_clip's SimpleTokenizer applies it.

pairmill ships no copy of the merges: they are read from an installed package (open_clip_torch or
OpenAI's clip) or the Hub, and checked by their digest. Captions are cleaned in Python, because ftfy
is, but the many that ftfy would not change skip it. `build_encoder` merges pairs in Rust; the
plugin `kernels` gives the same ids about ten times as fast.
"""

import gzip
import html
import re
import unicodedata
import zlib
from contextlib import nullcontext
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import ftfy
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from ftfy.chardata import HTML_ENTITY_RE, LIGATURES, WIDTH_MAP
from ftfy.fixes import uncurl_quotes
from tokenizers import AddedToken, Regex, models, pre_tokenizers, processors
from tokenizers import Tokenizer as BytePairTokenizer

from dataops.digest import text_sha256
from dataops.errors import ConfigError

START, END = "<start_of_text>", "<end_of_text>"
VOCAB_SIZE = 49_408
MERGES = VOCAB_SIZE - 2 * 256 - 2
MERGES_SHA256 = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"
"""sha256 of the merges, one a line."""
PACKAGES = ("open_clip", "clip")
FILE = "bpe_simple_vocab_16e6.txt.gz"
HUB_FILE = ("openai/clip-vit-base-patch32", "merges.txt")
MAX_FILE_BYTES = 16 * 1024**2
"""Number of bytes that are read of the merges, unpacked: OpenAI's file has 3 million."""

PLAIN = re.compile(r"[\t\n\r -%'-~]*")
"""Text in which ftfy changes nothing that matters: printable ASCII without an ampersand."""
FIXABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u206a-\u206f\ud800-\udfff\ufeff\ufff9-\ufffc"
    + "".join(map(chr, LIGATURES | WIDTH_MAP))
    + "]"
)
"""Characters that ftfy replaces or removes wherever they are, but curly quotes and entities."""
QUOTES = re.compile("[\u02bc\u2018-\u201f]")
_ODD = "".join(
    characters
    for name, characters in MOJIBAKE_CATEGORIES.items()
    if name not in ("common", "lower_accented", "lower_common", "upper_common")
)
SUSPECT = re.compile(f"[^\\x00-\\x7f](?:(?<=[ŒœÃÂØÙЂ])|(?<=[ВГРСΒΓΞΟ])-|[{_ODD}]|(?<=[{_ODD}])[^\\x00-\\x7f])")
"""Where ftfy's `is_bad`, which takes 40 us, can find a sequence: each has one of these characters or pairs."""
# Letters and numbers of Unicode 16 to 18 that `regex`, which SimpleTokenizer uses, has and the regular expressions of
# `tokenizers` have not. Source: DerivedGeneralCategory.txt of those versions.
NEW_LETTERS = (
    r"\x{558}\x{58B}-\x{58C}\x{88F}\x{C5C}\x{CDC}\x{208F}\x{209D}-\x{209F}\x{A7CE}-\x{A7CF}\x{A7D2}\x{A7D4}\x{A7DD}"
    r"\x{A7E2}\x{A7F1}\x{AB6C}-\x{AB6D}\x{107BB}-\x{107BF}\x{10940}-\x{10959}\x{10EC5}-\x{10EC7}\x{10ED9}-\x{10EEE}"
    r"\x{11B0A}\x{11DB0}-\x{11DDB}\x{11DF1}\x{16EA0}-\x{16EB8}\x{16EBB}-\x{16ED3}\x{16FF2}-\x{16FF3}\x{187F8}-\x{187FF}"
    r"\x{18CD6}-\x{18CDA}\x{18D09}-\x{18D20}\x{18D80}-\x{18DF2}\x{18E00}-\x{19191}\x{191A0}-\x{191D2}\x{1B123}-\x{1B128}"
    r"\x{1B168}\x{1D6A6}\x{1DF1F}-\x{1DF24}\x{1DF2B}-\x{1DF81}\x{1DF90}-\x{1DF96}\x{1DFCD}-\x{1DFFF}\x{1E6C0}-\x{1E6DE}"
    r"\x{1E6E0}-\x{1E6E2}\x{1E6E4}-\x{1E6E5}\x{1E6E7}-\x{1E6ED}\x{1E6F0}-\x{1E6F4}\x{1E6FE}-\x{1E6FF}\x{2B73A}-\x{2B73F}"
    r"\x{2B81E}\x{2CEA2}-\x{2CEAD}\x{323B0}-\x{33479}\x{3D000}-\x{3FC3F}"
)
NEW_NUMBERS = r"\x{11DE0}-\x{11DE9}\x{1246F}\x{12475}-\x{1247F}\x{12550}-\x{12686}\x{16FF4}-\x{16FF6}"
LETTER, NUMBER = rf"\p{{L}}{NEW_LETTERS}", rf"\p{{N}}{NEW_NUMBERS}"
# SimpleTokenizer ignores case, which in lower-cased text matters for the long s, and for the iota below (U+0345), which
# is then neither a letter nor another character, and so is left out.
OTHER = rf"[^\s{LETTER}{NUMBER}\x{{345}}]"
WORDS = rf"<[sſ]tart_of_text>|<end_of_text>|'[sſ]|'t|'re|'ve|'m|'ll|'d|[{LETTER}]+|[{NUMBER}]|{OTHER}+"


def clean_caption(text: str) -> str:
    """Clean a caption as SimpleTokenizer does: fixed by ftfy, entities resolved, spaces single, lower case."""
    if not PLAIN.fullmatch(text):
        straight = uncurl_quotes(text) if QUOTES.search(text) else text
        text = (
            ftfy.fix_text(text) if _is_fixable(text) or (straight is not text and _is_fixable(straight)) else straight
        )
        if "&" in text and (unescaped := html.unescape(text)) != text:
            text = html.unescape(unescaped)
        text = text.strip()
    return " ".join(text.split()).lower()


def _is_fixable(text: str) -> bool:
    """Return whether ftfy may change more of a text than its curly quotes."""
    if FIXABLE.search(text) or ("&" in text and HTML_ENTITY_RE.search(text)):
        return True
    return not text.isascii() and (
        not unicodedata.is_normalized("NFC", text) or (SUSPECT.search(text) is not None and is_bad(text))
    )


def build_encoder(merges: list[tuple[str, str]]) -> BytePairTokenizer:
    """Build the encoder of cleaned text to ids with start and end, in Rust."""
    symbols = alphabet()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    encoder = BytePairTokenizer(
        models.BPE(vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix="</w>")
    )
    encoder.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (START, END)])
    ends = [(START, VOCAB_SIZE - 2), (END, VOCAB_SIZE - 1)]
    encoder.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{START} $A {END}", special_tokens=ends
    )
    return encoder


def alphabet() -> list[str]:
    """Return a character for each byte: itself if it prints, else the next from U+0100 on. Source: GPT-2's encoder.py."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, printing), *(chr(256 + n) for n in range(256 - len(printing)))]


@lru_cache(maxsize=1)
def find_merges() -> list[tuple[str, str]]:
    """Read the merges from an installed package or the Hub.

    Raises: ConfigError if none has them.
    """
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None and (path := Path(spec.origin).with_name(FILE)).is_file():
            return read_merges(path)
    try:
        from huggingface_hub import hf_hub_download

        return read_merges(Path(hf_hub_download(*HUB_FILE)))
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(
            f"vocabulary: no package has the merges of CLIP's vocabulary, and the Hub gave none ({type(error).__name__}): "
            f'pip install open_clip_torch, or name the file: vocabulary = "path/{FILE}"'
        ) from error


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Read the merges in OpenAI's file, packed or not.

    Raises: ConfigError if the file is another one.
    """
    try:
        with path.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.open(file) if is_packed else nullcontext(file) as plain:
                text = plain.read(MAX_FILE_BYTES)
        lines = text.decode("utf-8").split("\n")[1 : MERGES + 1]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ConfigError(f"vocabulary: {path} cannot be read ({type(error).__name__}: {error})") from error
    if text_sha256("\n".join(lines)) != MERGES_SHA256:
        raise ConfigError(f"vocabulary: {path} is not OpenAI's {FILE}: other merges")
    return [(one, two) for one, two in (line.split(" ") for line in lines)]
