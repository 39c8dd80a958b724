"""A domain over TLS: a renewed certificate is ordinary, and a sold domain is held."""

import json
import ssl
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dataops.schema import uid
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.poison.quarantine import list_findings
from tests.growing import ANSWERS, HOST, configured, encoded, put_night, run
from tests.servers.hostile_web import served

pytestmark = pytest.mark.timeout(300)  # of a busy machine
SOLD, NOW = "sold.test", datetime.now(UTC)


def encode(certificate, key):
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM) + secret


class Authority:
    """A certificate authority."""

    def __init__(self, organization):
        self.key = generate_private_key(SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organization)])
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "crl_sign", "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        basic, signs = x509.BasicConstraints(ca=True, path_length=0), x509.KeyUsage(key_cert_sign=True, **usage)
        self.certificate = self.sign(self.name, self.key, 30, basic, signs)

    def sign(self, subject, key, days, *critical):
        identity = x509.SubjectKeyIdentifier.from_public_key
        built = x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number())
        built = built.not_valid_before(NOW - timedelta(days)).not_valid_after(NOW + timedelta(30))
        built = built.add_extension(identity(key.public_key()), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity(self.key.public_key()))
        built = built.add_extension(issuer, critical=False)
        for one in critical:
            built = built.add_extension(one, critical=True)
        return built.sign(self.key, SHA256())

    def serve(self, context, path, days):
        """Let a server's context have a new key and certificate."""
        key, names = generate_private_key(SECP256R1()), x509.SubjectAlternativeName([x509.DNSName(SOLD)])
        path.write_bytes(encode(self.sign(x509.Name([]), key, days, names), key))
        context.load_cert_chain(path)


def paint(handler):
    path = handler.path.rpartition("/")[2]
    headers = {"Content-Type": "image/png"} | ({"ETag": '"ab-12"'} if "shop" in handler.path else {})
    handler.respond((200, headers, encoded(path)))


@pytest.mark.long
def test_a_sold_domain_is_held_and_a_renewed_certificate_is_not(tmp_path, monkeypatch):
    old, new = Authority("Old Trust"), Authority("New Trust")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(b"".join(encode(one.certificate, one.key) for one in (old, new)))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    tls = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2)]
    old.serve(tls[0], tmp_path / "old.pem", 9)
    new.serve(tls[1], tmp_path / "new.pem", 1)
    answers, store = {SOLD: {**ANSWERS[HOST], "*": paint}}, FolderStore(tmp_path / "store")
    with (
        served(ANSWERS) as web,
        served(answers, tls=tls[0]) as before,
        served(answers, "127.9.0.1", tls[1]) as after,
        ProcessPoolExecutor(1, get_context("spawn")) as pool,  # a process that reads SSL_CERT_FILE
    ):

        def run_night(number, owner, rows):
            rows = [(f"https://{SOLD}/{path}", caption) for path, caption in rows]
            ordinary = [
                (f"http://{HOST}/{n}.png", f"A drawing called {n}") for n in range(100 * number, 100 * number + 3)
            ]
            put_night(tmp_path, number, ordinary + rows)
            connect_to = web.connect_to() | owner.connect_to()
            config = configured(web, tmp_path, curate={"poison": {}}, download={"connect_to": connect_to})
            version, manifests = run(config, tmp_path, pool=pool)
            evidence = read_parts(store, manifests["download"], "evidence-", ["url", "server"]).to_pylist()
            servers = {row["server"] for row in evidence if SOLD in row["url"]}
            assert {row["server"] for row in evidence if HOST in row["url"]} == {None}
            return version, [json.loads(one) for one in servers], {uid(*row) for row in rows}

        keys = set()
        for number in range(1, 6):
            rows = [(f"{100 * number + n}.png", f"A painting of gardens number {100 * number + n}") for n in (50, 51)]
            if number == 3:
                old.serve(tls[0], tmp_path / "old.pem", 2)
            version, [server], _ = run_night(number, before, rows)
            assert (server["issuer"], server["network"]) == ("Old Trust", "127.0.0.0/16")
            keys.add(server["key"])
        assert len(keys) == 2
        assert not list_findings(store, version)
        words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet"]
        rows = [(f"shop/{650 + n}.png", f"cheap {word} pills") for n, word in enumerate(words)]
        version, [server], held = run_night(6, after, rows)
        assert (server["issuer"], server["network"]) == ("New Trust", "127.9.0.0/16")
        [found] = list_findings(store, version)
        assert (found.check, found.subject, {*found.uids}) == ("changed_owner", SOLD, held)
