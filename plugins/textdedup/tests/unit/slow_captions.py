"""The comparison of captions in plain Python: what the compiled code must equal."""

import random

import numpy as np

from tests.oracles import scipy
from tests.slow_words import words

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def normal(text):
    """Return the words with a space before, between and after them."""
    found = " ".join(words(text or ""))
    return f" {found} " if found else ""


def shingles(text):
    form = normal(text)
    return {form[i : i + 3] for i in range(len(form) - 2)}


def jaccard(one, other):
    return len(one & other) / len(one | other) if one | other else 0.0


def all_pairs(texts, threshold):
    """Return the exact Jaccard similarity of every two texts (i < j) that reach the threshold."""
    sets = [shingles(text) for text in texts]
    columns = {shingle: i for i, shingle in enumerate(sorted(set().union(*sets)))}
    occurrences = [(row, columns[shingle]) for row, found in enumerate(sets) for shingle in found]
    rows, cols = zip(*occurrences, strict=True)
    holds = scipy("sparse").csr_array((np.ones(len(rows), np.int64), (rows, cols)), shape=(len(sets), len(columns)))
    common = (holds @ holds.T).tocoo()
    sizes = np.array([len(found) for found in sets])
    similar = common.data / (sizes[common.row] + sizes[common.col] - common.data)
    kept = (common.row < common.col) & (similar >= threshold)
    pairs = zip(common.row[kept].tolist(), common.col[kept].tolist(), strict=True)
    return dict(zip(pairs, similar[kept].tolist(), strict=True))


def mixed(value):
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & MASK64
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & MASK64
    return value ^ (value >> 33)


def signature(text, hashes):
    numbers = [mixed(i * GOLDEN & MASK64) >> 32 for i in range(1, 2 * hashes + 1)]
    bases = [mixed(ord(s[0]) << 42 | ord(s[1]) << 21 | ord(s[2])) >> 32 for s in shingles(text)]
    functions = zip(numbers[:hashes], numbers[hashes:], strict=True)
    return [
        min([((factor | 1) * base + more) & MASK32 for base in bases], default=MASK32) for factor, more in functions
    ]


def bands(text, scope, number, rows):
    signed, found = signature(text, number * rows), []
    for band in range(number):
        hash_ = mixed((scope + (band + 1) * GOLDEN) & MASK64)
        for value in signed[band * rows : (band + 1) * rows]:
            hash_ = mixed(hash_ ^ value)
        found.append(hash_)
    return found


def near_pairs(members, threshold, most_leaders):
    """(better, worse) of members with bucket, id, rank, origin, caption."""
    found, leaders = set(), {}
    for row in sorted(members, key=lambda r: (r["bucket"], r["rank"], r["origin"], r["id"])):
        led = leaders.setdefault(row["bucket"], [])
        own = shingles(row["caption"])
        near = [one for one in led if jaccard(shingles(one["caption"]), own) >= threshold]
        if near:
            found.add((near[0]["id"], row["id"]))
        elif len(led) < most_leaders:
            led.append(row)
    return found


def leaving(pairs, order):
    """Return the rows that are dropped if rows are visited in order: those with a better row that is kept."""
    dropped = set()
    for one in sorted(order, key=lambda i: order[i]):
        if any(worse == one and better not in dropped for better, worse in pairs):
            dropped.add(one)
    return dropped


WORDS = [
    "".join(random.Random(i).choices("etaoinshrdlucmfwypvbgk", k=random.Random(-i).randint(2, 9)))
    for i in range(1, 400)
]


def variants(seed, number):
    """Return captions of 3 to 20 words, and variants of them with a changed, added or removed letter or word."""
    chance = random.Random(seed)
    captions = []
    while len(captions) < number:
        words = chance.choices(WORDS, k=chance.randint(3, 20))
        for _ in range(chance.choice([1, 1, 2, 4])):
            captions.append(" ".join(words))
            at = chance.randrange(len(words))
            edit = chance.choice(["letter", "word", "more", "less"])
            if edit == "letter":
                words[at] = chance.choice("aeiou") + words[at][1:]
            elif edit == "word":
                words[at] = chance.choice(WORDS)
            elif edit == "more":
                words.insert(at, chance.choice(WORDS))
            elif len(words) > 2:
                del words[at]
    return sorted(set(captions))
