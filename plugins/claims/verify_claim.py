"""Verify a statement of `pairmill claim` with Python's standard library alone: this file can be copied.

    python verify_claim.py CLAIM [PHOTO] [--key=PUBLIC_KEY] [--root=ROOT]...

Exits with 0 and the answer, or with 3 and what is wrong. Sources: RFC 8032, 5.1.7 (Ed25519); RFC 9162, 2.1.3.2 (paths).
"""

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

FORMAT, BLOCK, WIDTHS = "pairmill-claim/2", 16, {"sha256": 32, "phash": 8}
"""Format of a statement, values of a leaf, and bytes of a value of each tree."""
ANSWERS = {True: "used", False: "not used", None: "not known whether used"}
_P, _ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_Point = tuple[int, int, int, int]


class Refused(ValueError):
    """A statement, a signature or a proof is not valid."""


def load(data: bytes) -> Any:
    """Return the value of a JSON file. Raises: Refused if it is none, or others could read it as another value."""
    try:
        return json.loads(data, object_pairs_hook=_unite)
    except (ValueError, RecursionError) as error:
        raise Refused(f"it is no valid JSON: {error}") from error


def _unite(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"an object has a name twice, of {', '.join(found)}")
    return found


def verify(
    envelope: Any, key: str | None = None, roots: frozenset[str] = frozenset(), photo: bytes | None = None
) -> Any:
    """Return the statement of an envelope. Raises: Refused if its signature, a proof or an answer is not valid.

    Args:
        key: public key of the signer, 64 hex digits; None: that of the envelope, which proves nothing about the signer.
        roots: published roots of the datasets, which must be those of the statement; empty: not compared.
        photo: the file that it is about.
    """
    try:
        statement, public = envelope["statement"], str(envelope["key"])
        if {*envelope} != {"statement", "key", "signature"}:
            raise Refused(f"its parts are {', '.join(envelope)}, of which only the statement is signed")
        if key is not None and public != key:
            raise Refused(f"it is signed with the key {public}")
        if not verify_signature(bytes.fromhex(public), encode(statement), bytes.fromhex(envelope["signature"])):
            raise Refused("its signature is not valid")
        asked, answers = statement["asked"], set[str]()
        if statement["format"] != FORMAT:
            raise Refused(f"its format is {statement['format']}, not {FORMAT}; use the verifier that came with it")
        if photo is not None and asked["sha256"] != hashlib.sha256(photo).hexdigest():
            raise Refused("it is about another file")
        if not statement["datasets"]:
            raise Refused("it names no dataset")
        for dataset in statement["datasets"]:
            members = [_verify_trees(trees, asked, statement["bits"]) for trees in dataset["trees"]]
            without = "absent" if members else "".join({"missing", "unlisted"} & {dataset["answer"]})
            answer = "proved" if any(members) else "listed" if dataset["pairs"] else without
            if not answer or dataset["answer"] != answer:
                raise Refused(f"its answer for dataset {dataset['key']} does not follow from its proofs")
            answers.add(answer)
        unknown = None if "missing" in answers or statement["not_compared"] else False
        if statement["used"] is not (bool(answers & {"proved", "listed"}) or unknown):
            raise Refused("its answer does not follow from its datasets")
        if roots and roots != {trees["root"] for dataset in statement["datasets"] for trees in dataset["trees"]}:
            raise Refused("its roots are not those that were given")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise error if isinstance(error, Refused) else Refused(f"it is malformed: {error!r}") from error
    return statement


def encode(statement: Any) -> bytes:
    """Return the bytes of a statement that are signed."""
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def blind(sha256: str) -> bytes:
    """Return the value of an image in the tree: a digest of its digest, so that a proof does not tell its neighbours'."""
    return hashlib.sha256(b"pairmill-claim" + bytes.fromhex(sha256)).digest()


def _verify_trees(trees: Any, asked: Any, bits: int) -> bool:
    roots = {kind: bytes.fromhex(trees["roots"][kind]) for kind in WIDTHS}
    if hash_node(*roots.values()).hex() != trees["root"]:
        raise Refused("a root is not that of its trees")
    if (near := trees["near"]) and (int(near, 16) ^ int(asked["phash"], 16)).bit_count() > bits:
        raise Refused("a copy is not near")
    values = {"sha256": blind(asked["sha256"]), "phash": bytes.fromhex(near or asked.get("phash", ""))}
    return any([verify_proof(trees["proofs"][k], values[k], trees["values"][k], roots[k], WIDTHS[k]) for k in asked])


def verify_proof(proof: Any, value: bytes, values: int, root: bytes, width: int) -> bool:
    """Return whether a value is in the tree with this root, which a proof shows either way. Raises: Refused."""
    if not values and hash_root(0, b"") == root:
        return False
    leaf, path = (base64.b64decode(proof[name], validate=True) for name in ("leaf", "path"))
    index, last = proof["index"], -(-values // BLOCK) - 1
    size = BLOCK if index < last else values - BLOCK * last
    if not 0 <= index <= last or len(value) != width or len(leaf) != width * (size + 1) or len(path) % 32:
        raise Refused("a leaf has another size")
    before, *block = (leaf[at : at + width] for at in range(0, len(leaf), width))
    if (index > 0 and value <= before) or (index < last and value > block[-1]):
        raise Refused("a leaf is not the place of its value")
    node = hashlib.sha256(b"\0" + leaf).digest()
    for sibling in (path[at : at + 32] for at in range(0, len(path), 32)):
        if index & 1 or index == last:
            node = hash_node(sibling, node)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            node = hash_node(node, sibling)
        index, last = index >> 1, last >> 1
    if last or hash_root(values, node) != root:
        raise Refused("a path does not lead to its root")
    return value in block


def hash_node(left: bytes, right: bytes) -> bytes:
    """Return the hash of two nodes."""
    return hashlib.sha256(b"\1" + left + right).digest()


def hash_root(values: int, top: bytes) -> bytes:
    """Return the root of a tree, which fixes the number of values as well: no other leaf can be called the last."""
    return hashlib.sha256(b"\2" + values.to_bytes(8, "big") + top).digest()


def verify_signature(public: bytes, data: bytes, signature: bytes) -> bool:
    """Return whether an Ed25519 signature is valid."""
    scalar, key, point = int.from_bytes(signature[32:], "little"), _decompress(public), _decompress(signature[:32])
    base = _decompress((4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little"))
    if key is None or point is None or base is None or len(signature) != 64 or scalar >= _ORDER:
        return False
    digest = int.from_bytes(hashlib.sha512(signature[:32] + public + data).digest(), "little")
    one, two = _multiply(scalar, base), _add(point, _multiply(digest % _ORDER, key))
    return all((one[axis] * two[2] - two[axis] * one[2]) % _P == 0 for axis in (0, 1))


def _add(one: _Point, two: _Point) -> _Point:
    a, b = (one[1] - one[0]) * (two[1] - two[0]) % _P, (one[1] + one[0]) * (two[1] + two[0]) % _P
    c, d = 2 * one[3] * two[3] * _D % _P, 2 * one[2] * two[2] % _P
    return (b - a) * (d - c) % _P, (d + c) * (b + a) % _P, (d - c) * (d + c) % _P, (b - a) * (b + a) % _P


def _multiply(scalar: int, point: _Point) -> _Point:
    total = (0, 1, 1, 0)
    while scalar:
        total = _add(total, point) if scalar & 1 else total
        point, scalar = _add(point, point), scalar >> 1
    return total


def _decompress(data: bytes) -> _Point | None:
    y, sign = int.from_bytes(data, "little") & (1 << 255) - 1, data[-1] >> 7 if len(data) == 32 else 2
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    x = x if (x * x - square) % _P == 0 else x * pow(2, (_P - 1) // 4, _P) % _P
    valid = sign < 2 and y < _P and (x * x - square) % _P == 0 and (x or not sign)
    return (x := x if x & 1 == sign else -x % _P, y, 1, x * y % _P) if valid else None


if __name__ == "__main__":
    words = sys.argv[1:]
    names = [Path(word) for word in words if not word.startswith("--")]
    keys, given = ([word[len(name) :] for word in words if word.startswith(name)] for name in ("--key=", "--root="))
    try:
        if not 1 <= len(names) <= 2 or len(keys) > 1 or len(names + keys + given) < len(words):
            raise Refused(f"usage: {str(__doc__).splitlines()[2].strip()}")
        photos = [name.read_bytes() for name in names[1:]] or [None]
        found = verify(load(names[0].read_bytes()), (keys or [None])[0], frozenset(given), photos[0])
        sys.stdout.write(f"valid: {ANSWERS[found['used']]} by {found['subject']}\n")
    except (OSError, Refused) as problem:
        sys.stderr.write(f"refused: {problem}\n")
        sys.exit(3)
