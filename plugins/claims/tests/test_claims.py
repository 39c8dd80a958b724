"""Proofs agree with a set, whatever is altered is refused, and statements follow the datasets that a model saw."""

import hashlib
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from dataops.errors import ConfigError, CorruptPart, StorageError
from dataops.facts import PackFacts
from dataops.snapshot import Draft, load_manifest
from dataops.store import FolderStore
from dataops.trace.requests import Report, make_request, record_request, report_name
from dataops.trace.targets import Target, image_targets
from plugins.claims import command
from plugins.claims.statement import find_subject, load_key, make_statement, parse_asked, read_list, sign_statement
from plugins.claims.tree import encode_trees, open_trees
from plugins.claims.verify_claim import (
    BLOCK,
    WIDTHS,
    Refused,
    hash_node,
    hash_root,
    load,
    verify,
    verify_proof,
    verify_signature,
)
from tasks.engine.stage import make, plan
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tests.image_files import photo
from tests.inline_executor import inline_context
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import chain, packed, pair

# Trees ----------------------------------------------------------------------------------------------------------------


def hash_tree(leaves):
    """The recursive definition of RFC 9162, 2.1.1, over the hashes of leaves."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hash_node(hash_tree(leaves[:split]), hash_tree(leaves[split:]))


def write_trees(folder, values):
    store = FolderStore(folder)
    data, stated = encode_trees({kind: iter(found) for kind, found in values.items()}, 1)
    draft = Draft(store, "pack", "a" * 16)
    part = draft.put_bytes("index-claims-00000.bin", data)
    return open_trees(store, build_manifest("pack", [part], key=draft.key))[0], stated


def a_value(width):
    """Values that are often neighbours, with some of zeros and of the highest bytes."""
    near = st.integers(0, 700).map(lambda n: n.to_bytes(width, "big"))
    return st.one_of(near, st.just(b"\xff" * width), st.binary(min_size=width, max_size=width))


@given(*(st.lists(a_value(width), max_size=120) for width in (32, 8)), st.data())
def test_proofs_agree_with_a_set_and_a_recursive_tree(digests, hashes, data):
    import tempfile

    values = {"sha256": digests, "phash": hashes}
    with tempfile.TemporaryDirectory() as name:
        trees, stated = write_trees(Path(name), values)
        for kind, width in WIDTHS.items():
            distinct = sorted(set(values[kind]))
            ordered = [bytes(width), *distinct]
            blocks = [b"".join(ordered[at : at + BLOCK + 1]) for at in range(0, len(distinct), BLOCK)]
            top = hash_tree([hashlib.sha256(b"\0" + block).digest() for block in blocks]) if blocks else b""
            root = bytes.fromhex(stated["roots"][kind])
            assert root == hash_root(len(distinct), top)
            others = st.one_of(*([st.sampled_from(distinct)] if distinct else []), a_value(width))
            value = data.draw(others)
            proof = trees.prove(kind, value)
            assert verify_proof(proof, value, len(distinct), root, width) == (value in distinct)
            if distinct:
                with pytest.raises(Refused):
                    verify_proof(proof, value, len(distinct) + data.draw(st.sampled_from([-1, 1, BLOCK])), root, width)


def test_a_proof_of_a_value_never_shows_the_absence_of_another(tmp_path):
    digests = [hashlib.sha256(bytes([n])).digest() for n in range(90)]
    trees, stated = write_trees(tmp_path, {"sha256": digests, "phash": []})
    root, proofs = bytes.fromhex(stated["roots"]["sha256"]), [trees.prove("sha256", value) for value in digests]
    for value in digests:
        for proof in proofs:
            try:
                assert verify_proof(proof, value, 90, root, 32)
            except Refused:
                assert proof["index"] != trees.prove("sha256", value)["index"]


# Signatures -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.integers(0, 767))
def test_signatures_are_verified_as_by_cryptography(data, bit):
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(data).digest())
    public, signature = key.public_key().public_bytes_raw(), key.sign(data)
    assert verify_signature(public, data, signature)
    altered = bytearray(public + signature)
    altered[bit // 8] ^= 1 << bit % 8
    one, two = bytes(altered[:32]), bytes(altered[32:])
    try:
        Ed25519PublicKey.from_public_bytes(one).verify(two, data)
        is_valid = True
    except (InvalidSignature, ValueError):
        is_valid = False
    assert verify_signature(one, data, two) == is_valid
    assert not verify_signature(public, data + b"x", signature)
    assert not verify_signature(public, data, signature[:63])


# Statements -----------------------------------------------------------------------------------------------------------


def named_pair(number):
    sha256, phash = image_targets(photo(number))
    return pair(number, sha256=sha256.value, phash=phash.value)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with a dataset of the photos 0 to 39, and a training on it."""
    folder = tmp_path_factory.mktemp("made")
    store = FolderStore(folder / "store")
    snapshots = chain(store, [named_pair(n) for n in range(40)])
    pack = packed(store, folder, snapshots, shard_size=9)
    draft = Draft(store, "train", "b" * 16)
    train = draft.commit(
        build_manifest(
            "train",
            [draft.put_bytes("made.json", b"{}")],
            key=draft.key,
            inputs=[pack.as_input()],
            facts={"weights": [{"tower": "image", "name": "lite"}]},
        )
    )
    return store, train


@pytest.fixture
def trained(made, tmp_path):
    """The training in a copy of the store."""
    shutil.copytree(made[0].root, tmp_path / "store")
    return FolderStore(tmp_path / "store"), made[1]


@pytest.fixture
def key():
    return Ed25519PrivateKey.from_private_bytes(b"k" * 32)


def claim_of(what, store, train):
    return make_statement(parse_asked(str(what)), find_subject(train.key, Path("home"), store.uri), 20)


def test_photo_copy_and_stranger(tmp_path, trained, key):
    for name, data, used in (
        ("own.jpg", photo(7), True),
        ("copy.jpg", photo(7, side=48), True),
        ("other.jpg", photo(1234), False),
        ("text.jpg", b"no image", None),
        ("cut.jpg", photo(7)[:500], None),
    ):
        file = tmp_path / name
        file.write_bytes(data)
        statement = claim_of(file, *trained)
        (dataset,) = statement["datasets"]
        assert (statement["used"], dataset["answer"]) == (used, "proved" if used else "absent"), name
        assert bool(statement["not_compared"]) == (used is None)
        assert [row["url"] for row in dataset["rows"]] == [pair(7)["url"]] * bool(used)
        assert statement["started_from"] == ["lite"]
        envelope = json.loads(json.dumps(sign_statement(statement, key)))
        roots = frozenset(one["root"] for one in PackFacts.of(packs(trained)[0]).commitments["claims"])
        assert verify(envelope, key.public_key().public_bytes_raw().hex(), roots, data) == statement
        assert sum(len(json.dumps(trees["proofs"])) for trees in dataset["trees"]) < 4000


def packs(trained):
    return [pack for _, pack in find_subject(trained[1].key, Path("home"), trained[0].uri).packs]


def alter(value):
    """Yield copies of a JSON value in each of which one thing is altered."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {other: kept for other, kept in value.items() if other != name}
            yield from ({**value, name: changed} for changed in alter(inner))
    elif isinstance(value, list):
        yield [*value, *value] if value else [1]
        for at, inner in enumerate(value):
            yield value[:at] + value[at + 1 :]
            yield from ([*value[:at], changed, *value[at + 1 :]] for changed in alter(inner))
    elif isinstance(value, str):
        yield value + "0"
        yield (("1" if value[0] == "0" else "0") + value[1:]) if value else "1"
    else:
        yield value + 1 if type(value) is int else {True: False, False: None, None: True}[value]


def test_whatever_is_altered_is_refused(tmp_path, trained, key):
    (tmp_path / "own.jpg").write_bytes(photo(7))
    envelope = sign_statement(claim_of(tmp_path / "own.jpg", *trained), key)
    text = json.dumps(envelope)
    for data in (text[:-9], text.replace('"used": true', '"used": false, "used": true'), "[" * 200_000):
        with pytest.raises(Refused, match="no valid JSON"):
            load(data.encode())
    altered = [*alter(envelope), {**envelope, "note": "valid"}]
    assert len(altered) > 100
    for one in [*altered, sign_statement({**envelope["statement"], "datasets": []}, key)]:
        with pytest.raises(Refused):
            verify(one)


def test_what_a_signer_alters_is_refused_where_proofs_contradict_it(tmp_path, trained, key):
    """The signer himself lies: he signs again."""
    roots = frozenset(one["root"] for one in PackFacts.of(packs(trained)[0]).commitments["claims"])
    for seed in (7, 1234):
        (tmp_path / "one.jpg").write_bytes(photo(seed))
        statement = claim_of(tmp_path / "one.jpg", *trained)
        honest = statement["used"]
        (dataset,) = statement["datasets"]
        answer = "absent" if honest else "proved"
        lies = [
            {**statement, "used": not honest},
            {**statement, "used": not honest, "datasets": [{**dataset, "answer": answer}]},
            {**statement, "used": None, "datasets": [{**dataset, "answer": "missing", "trees": [], "pairs": 0}]},
            {**statement, "used": False, "datasets": [{**dataset, "answer": "unlisted", "trees": [], "pairs": 0}]},
        ]
        lies += [{**statement, "datasets": [{**dataset, "trees": [trees]}]} for trees in alter(dataset["trees"][0])]
        for lie in lies:
            try:
                found = verify(sign_statement(lie, key), roots=roots, photo=photo(seed))
            except Refused:
                continue
            assert found["used"] == honest, (
                "what is altered may matter to nothing, such as a near hash beside an equal one"
            )


def test_verifier_needs_the_standard_library_alone(tmp_path, trained, key):
    (tmp_path / "own.jpg").write_bytes(photo(7))
    (tmp_path / "claim.json").write_text(json.dumps(sign_statement(claim_of(tmp_path / "own.jpg", *trained), key)))
    lines = command.VERIFIER.read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 150

    def run(*arguments):
        words = [sys.executable, "-I", "-S", str(command.VERIFIER), *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, check=False, env={}, cwd=tmp_path)

    public = key.public_key().public_bytes_raw().hex()
    valid = run("claim.json", "own.jpg", f"--key={public}")
    assert (valid.returncode, valid.stdout) == (0, f"valid: used by train/{'b' * 16}\n")
    (tmp_path / "other.jpg").write_bytes(photo(8))
    for refused in (run("claim.json", "other.jpg"), run("claim.json", "--rooot=00"), run()):
        assert refused.returncode == 3
        assert refused.stderr.startswith("refused: ")


def test_pair_that_a_takedown_removed_stays_in_the_answer_of_the_model(tmp_path, trained):
    """The next version keeps the trees of the first: what a model saw does not change."""
    store, train = trained
    (tmp_path / "own.jpg").write_bytes(photo(7))
    record_request(store, make_request([Target("url", pair(7)["url"])], "asked"))
    (pack,) = packs(trained)
    upstream = [i for i in pack.inputs if i.stage in ("curate", "download")]
    manifests = [load_manifest(store, i.stage, i.key) for i in upstream]
    planned = plan(PACK, PackConfig(shard_size=9), 0, manifests, store)
    following = make(planned, inline_context(store, tmp_path))
    assert following.counts.kept == pack.counts.kept - 1
    assert PackFacts.of(following).commitments == PackFacts.of(pack).commitments
    statement = make_statement(
        parse_asked(str(tmp_path / "own.jpg")), find_subject(following.key, Path("home"), store.uri), 20
    )
    (dataset,) = statement["datasets"]
    assert (dataset["answer"], dataset["pairs"], len(dataset["removed_by"])) == ("proved", 0, 1)
    store.delete_tree(f"pack/{pack.key}")
    (dataset,) = claim_of(tmp_path / "own.jpg", store, train)["datasets"]
    assert dataset["answer"] == "missing"
    report = Report(versions={pack.key: following.key})
    store.put(report_name("d" * 16), report.model_dump_json().encode())
    (dataset,) = claim_of(tmp_path / "own.jpg", store, train)["datasets"]
    assert (dataset["key"], dataset["version"], dataset["answer"]) == (pack.key, following.key, "proved")


def test_bad_input_has_a_clear_error(tmp_path, trained, key):
    store, train = trained
    of_next = {**claim_of("host1.example", store, train), "format": "pairmill-claim/1"}
    with pytest.raises(Refused, match="its format is pairmill-claim/1, not"):
        verify(sign_statement(of_next, key))
    (tmp_path / "my.photos").mkdir()
    for text, message in (
        *((text, "there is no file") for text in ("photo.jpg", "~nobody/x", "a" * 999)),
        (str(tmp_path / "my.photos"), "is a folder.*name image files"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_asked(text)
    for data, message in ((b"\xef\xbb\xbfa.jp\nhttp://[::1", "line 2: "), (b"\xff\xfe", "save the file in UTF-8")):
        (tmp_path / "list").write_bytes(data)
        with pytest.raises(ConfigError, match=f"--list .*{message}"):
            read_list(tmp_path / "list")
    (pack,) = packs(trained)
    download = next(one.key for one in pack.inputs if one.stage == "download")
    with pytest.raises(ConfigError, match="no dataset"):
        find_subject(download, tmp_path, store.uri)
    assert parse_asked("domain:photo.jpg").fields == {"domain": "photo.jpg"}
    with pytest.raises(ConfigError, match="another store with --store"):
        find_subject("c" * 16, tmp_path, None)
    for text in ("", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        (tmp_path / "key.pem").write_text(text)
        with pytest.raises(ConfigError, match="openssl genpkey"):
            load_key(tmp_path / "key.pem")
    (part,) = pack.named("index-claims-")
    whole = store.read(pack.path(part.name))
    for damaged in (b"", b"x" * part.bytes, whole[:70] + bytes([whole[70] ^ 1]) + whole[71:]):
        store.put(pack.path(part.name), damaged)
        with pytest.raises(CorruptPart):
            claim_of("sha256:" + "0" * 64, store, train)


def test_command_writes_signed_statements_and_their_verifier(tmp_path, trained, key, capsys):
    store, train = trained
    pem = tmp_path / "key.pem"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    own, names, out = tmp_path / "own.jpg", tmp_path / "list.txt", tmp_path / "claims"
    own.write_bytes(photo(7))
    names.write_text("# two more\nnothing.example\n\nhost1.example\n")
    assert command.claim(str(own), model=train.key, key=pem, names=names, out=out, store=store.uri) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *(f"claim-000{n}.json" for n in (1, 2, 3)),
        "verify_claim.py",
    ]
    printed = capsys.readouterr().out
    assert "used by train/" in printed
    assert "no pair matches; this has no proof" in printed
    listed = json.loads((out / "claim-0003.json").read_bytes())
    (dataset,) = listed["statement"]["datasets"]
    assert (dataset["answer"], dataset["pairs"], verify(listed)["used"]) == ("listed", 13, True)
    assert command.verify(out / "claim-0001.json", own) == 0
    altered = json.loads((out / "claim-0001.json").read_bytes())
    altered["statement"]["name"] = "another"
    with pytest.raises(ConfigError, match="cannot write"):
        command.claim(str(own), model=train.key, key=pem, out=own, store=store.uri)
    before, limits = (out / "claim-0001.json").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # like a full disk
    try:
        with pytest.raises(StorageError, match="free disk space"):
            command.claim(str(own), model=train.key, key=pem, out=out, store=store.uri)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (out / "claim-0001.json").read_bytes() == before
    assert len(list(out.iterdir())) == 4
    assert b"__main__" in (out / "verify_claim.py").read_bytes()
    (out / "claim-0001.json").write_text(json.dumps(altered))
    with pytest.raises(CorruptPart, match="signature"):
        command.verify(out / "claim-0001.json", own)
