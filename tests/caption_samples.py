"""Generate captions to compare tokenizers: web-like ones and hostile ones."""

import html
import random
import unicodedata
from importlib.resources import files
from itertools import accumulate

WORDS = (  # noqa: SIM905
    "a photo of the red Toyota Land-Cruiser 2019 parked in front house café naïve Straße Übergröße don't it's we'll I'd "
    "THEY'RE L'Oréal #1 50% £20 10x15cm (SKU-4471) www.example.com/a_b?c=d&e=f IMG_2034.JPG 1:64 3.5mm T-shirt's "
    "Stainless-steel Wall-mounted ÇİĞDEM Ελλάδα ΟΔΟΣ Москва картина 東京タワー 사진 صورة תמונה ภาพถ่าย चित्र "
    "🙂 👩‍👩‍👧 ❤️ ½ ² №"
).split()
ENTITIES = (  # noqa: SIM905
    "&amp; &lt;b&gt; &quot;x&quot; &#39;s &#x2019;t &amp;amp; &amp;#39; &eacute; &EACUTE; &nbsp; &hellip; &notanentity; "
    "&amp &copy2019 &#0; &#xD800; &#150; &#99999999; &NewLine; &Tab; &zwj; &ffilig;"
).split()
SPECIAL = (  # noqa: SIM905
    "<start_of_text> <end_of_text> <END_OF_TEXT> <<start_of_text>> <\u017ftart_of_text> <|endoftext|> </w> 'ſ 'S 'T 'RE 'Ll"
).split()
SPACES = [*" \t\n\x0b\x0c\x1c\x85\u00a0\u2003\u3000\u2028\u200b\ufeff", "  ", "\r\n"]
ODD = (
    "\x00\x07\x1b[31m\x7f\x80\x9f\u02bc\u2018\u2019\u201c\u201d\ufb01\ufb06ĳǆŉｶﾞＡ"
    "\ufffc\u206a\u0301\u0345ﬀ\u1e9eK\u212bſİıΣ"
)
BLOCKS = (0x20, 0xA0, 0x100, 0x250, 0x370, 0x400, 0x530, 0x600, 0x900, 0xE00, 0x1E00, 0x2000, 0x3040, 0x4E00)


def make_hostile_captions(count, seed):
    """Return captions of seven kinds in turn; the first is twice as frequent."""
    draw = random.Random(seed)
    kinds = (_plain, _plain, _marked_up, _mojibake, _spaced, _random_characters, _random_blocks, _pathological)
    return [kinds[number % len(kinds)](draw) for number in range(count)]


def make_web_captions(count, seed):
    """Return captions like those of the English web: words by frequency, one caption in ten with non-ASCII characters."""
    draw = random.Random(seed)
    path = files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    table = [line.split() for line in path.read_text("utf-8-sig").splitlines()]
    words, weights = [row[0] for row in table], list(accumulate(int(row[1]) for row in table))
    ascii_words = [word for word in WORDS if word.isascii()]
    lines = []
    for _ in range(count):
        chosen = draw.choices(words, cum_weights=weights, k=draw.randint(3, 14)) + draw.choices(ascii_words, k=2)
        if draw.random() < 0.1:
            chosen.append(draw.choice(WORDS))
        draw.shuffle(chosen)
        lines.append(" ".join(chosen).capitalize())
    return lines


def _plain(draw):
    return " ".join(draw.choices(WORDS, k=draw.randint(0, 14)))


def _marked_up(draw):
    words = draw.choices(WORDS, k=6) + draw.choices(ENTITIES, k=3)
    draw.shuffle(words)
    text = draw.choice([" ", ""]).join(words)
    return html.escape(text) if draw.random() < 0.3 else text


def _mojibake(draw):
    """Return text decoded with a wrong encoding, once or twice, for ftfy to fix."""
    text = " ".join(draw.choices(WORDS, k=8)) + draw.choice(["’s", " – é", "“à”", ""])
    for _ in range(draw.randint(1, 2)):
        text = text.encode("utf-8", "replace").decode(
            draw.choice(["latin-1", "cp1252", "macroman", "cp1251"]), "replace"
        )
    return text


def _spaced(draw):
    return "".join(draw.choice(WORDS) + draw.choice(SPACES) * draw.randint(1, 2) for _ in range(draw.randint(1, 10)))


def _random_characters(draw):
    """Return any code points except surrogates, which UTF-8 cannot encode."""
    points = (draw.randrange(0x110000) for _ in range(draw.randint(1, 30)))
    return "".join(chr(point) for point in points if not 0xD800 <= point <= 0xDFFF)


def _random_blocks(draw):
    """Return code points of one block, like words of a script, in a normal form."""
    parts = []
    for _ in range(draw.randint(1, 5)):
        base = draw.choice(BLOCKS)
        parts.append("".join(chr(base + draw.randrange(0x90)) for _ in range(draw.randint(1, 9))))
    return unicodedata.normalize(draw.choice(["NFC", "NFD", "NFKC", "NFKD"]), draw.choice([" ", ""]).join(parts))


def _pathological(draw):
    pieces = (
        draw.choices(SPECIAL, k=2) + draw.choices(ODD, k=6) + draw.choices(WORDS, k=4) + draw.choices(ENTITIES, k=1)
    )
    pieces += [draw.choice(WORDS)[0] * draw.choice([1, 3, 120])]
    draw.shuffle(pieces)
    return draw.choice(["", " ", "'"]).join(pieces)
