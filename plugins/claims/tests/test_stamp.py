"""Time stamps of OpenSSL's own authority are accepted, and what it did not sign for this request is refused."""

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import certifi
import pytest

from dataops.errors import ConfigError, ServiceError
from plugins.claims.stamp import list_roots, load_authorities, request_stamp
from plugins.claims.statement import Subject
from tests.manifests import build_manifest
from tests.servers.loopback import Handler, serving

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="OpenSSL's command is not installed")
TEXT = b"root aaaa 0123\n"
CONFIG = """
[tsa]
default_tsa = one
[one]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = {digests}
ess_cert_id_alg = sha256
"""


def openssl(*words):
    subprocess.run([str(OPENSSL), *map(str, words)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A folder with an authority, the time stamp server that it vouches for, and a stranger's certificate."""
    folder = tmp_path_factory.mktemp("authority")
    for name in ("ca", "stranger"):
        openssl(
            *("req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "30", "-subj", f"/CN={name}"),
            *("-addext", "keyUsage=critical,keyCertSign"),
            *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"),
        )
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=tsa"),
        *("-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-addext", "extendedKeyUsage=critical,timeStamping"),
        *("-addext", "basicConstraints=critical,CA:false"),
        *("-keyout", folder / "tsa.key", "-out", folder / "tsa.pem"),
    )
    for name, digests in (("good", "sha256"), ("refusing", "sha512")):
        (folder / f"{name}.cnf").write_text(CONFIG.format(folder=folder, digests=digests))
    (folder / "serial").write_text("01\n")
    return folder


def sign(folder, request, config="good"):
    query, reply = folder / "query.tsq", folder / "reply.tsr"
    query.write_bytes(request)
    openssl(*("ts", "-reply", "-config", folder / f"{config}.cnf"), *("-queryfile", query, "-out", reply))
    return reply.read_bytes()


@pytest.fixture
def server():
    """Start servers that answer each request with what a function makes of it."""
    with ExitStack() as running:

        def start(answer):
            class Stamping(Handler):
                def do_POST(self):
                    assert self.headers["Content-Type"] == "application/timestamp-query"
                    body = answer(self.read_body())
                    self.answer(200 if body else 500, body)

            return running.enter_context(serving(Stamping)).url

        yield start


def test_stamp_verifies_with_openssl(authority, server, tmp_path):
    known = load_authorities(authority / "stranger.pem") + load_authorities(authority / "ca.pem")
    token, at = request_stamp(TEXT, server(lambda request: sign(authority, request)), known)
    (tmp_path / "roots.tsr").write_bytes(token)
    (tmp_path / "roots.txt").write_bytes(TEXT)
    files = ("-in", tmp_path / "roots.tsr", "-CAfile", authority / "ca.pem")
    openssl("ts", "-verify", "-data", tmp_path / "roots.txt", *files)
    (tmp_path / "roots.txt").write_bytes(TEXT + b"root bbbb 0123\n")
    with pytest.raises(subprocess.CalledProcessError):
        openssl("ts", "-verify", "-data", tmp_path / "roots.txt", *files)
    assert abs(at.timestamp() - (tmp_path / "roots.tsr").stat().st_mtime) < 60


def test_other_answers_are_refused(authority, server):
    known = load_authorities(authority / "ca.pem")
    kept = []

    def replay(request):
        kept.append(kept[0] if kept else sign(authority, request))
        return kept[-1]

    again = server(replay)
    request_stamp(TEXT, again, known)
    for url, text, authorities, error, match in (
        (again, TEXT, known, ConfigError, "[Nn]once"),
        (again, b"other\n", known, ConfigError, "[Nn]once"),
        (server(lambda _: b"<html>no stamp</html>"), TEXT, known, ConfigError, "no time stamp"),
        (server(lambda one: sign(authority, one, "refusing")), TEXT, known, ConfigError, "REJECTION"),
        (server(lambda one: sign(authority, one)), TEXT, load_authorities(authority / "stranger.pem"), ConfigError, "--ca"),
        (server(lambda _: b""), TEXT, known, ServiceError, "500"),
        ("http://127.0.0.1:9", TEXT, known, ServiceError, "did not answer"),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            request_stamp(text, url, authorities)


def test_known_authorities_are_read_without_a_warning():
    assert len(load_authorities(Path(certifi.where()))) > 50


def test_text_has_a_root_of_each_tree():
    trees = [{"root": "01" * 32}, {"root": "02" * 32}]
    pack = build_manifest("pack", [], key="a" * 16, facts={"commitments": {"claims": trees}})
    bare = build_manifest("pack", [], key="b" * 16)
    assert list_roots(Subject("m", None, [(pack.key, pack)])) == b"".join(
        f"root {pack.key} {one['root']}\n".encode() for one in trees
    )
    for pack in ((bare.key, bare), ("c" * 16, None)):
        with pytest.raises(ConfigError):
            list_roots(Subject("m", None, [pack]))
