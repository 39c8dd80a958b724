"""Signatures of requests: the vectors of RFC 9421 and of the draft, and a verifier that shares no code with the signer."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from http_message_signatures import HTTPMessageVerifier, InvalidSignature
from http_message_signatures.algorithms import ED25519
from http_message_signatures.resolvers import MappingKeyResolver

from plugins.identity.hook import parse_agent
from plugins.identity.keys import RequestSigner, key_id, make_document, make_headers, sign_message
from tests.servers.signatures import Guard

# RFC 9421, appendix B.1.4: a published key, which signs nothing but test vectors.
PEM = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF
-----END PRIVATE KEY-----
"""
KEY = load_pem_private_key(PEM, None)
AGENT = "https://signature-agent.test"
CREATED, EXPIRES = datetime.fromtimestamp(1735689600, UTC), datetime.fromtimestamp(4889289600, UTC)


def test_signature_is_that_of_rfc_9421_appendix_b_2_6():
    headers = {"Date": "Tue, 20 Apr 2021 02:07:55 GMT", "Content-Type": "application/json", "Content-Length": "18"}
    request = SimpleNamespace(method="POST", url="https://example.com/foo?param=Value&Pet=dog", headers=headers)
    components = ("date", "@method", "@path", "@authority", "content-type", "content-length")
    created = datetime.fromtimestamp(1618884473, UTC)
    signed = sign_message(KEY, "test-key-ed25519", request, components, "sig-b26", created=created, include_alg=False)
    assert signed == {
        "Signature-Input": 'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length")'
        ';created=1618884473;keyid="test-key-ed25519"',
        "Signature": "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
    }


@pytest.mark.parametrize(
    ("agent", "component", "expires", "nonce", "signature"),
    [
        (
            f'agent2="{AGENT}"',
            '"signature-agent";key="agent2"',
            EXPIRES,
            "n9p433xm+NJ3ph3upfBIGmsuwHw387YV7Q/F+6BSpGCVjYCqQw6rznNA8PVVLySrAWsv0hQtFioQb6E1YsauiA==",
            "RdNFx5Bj6au3YgAMQL/RzmUlZE8QZLIaXGRpw985hWnwPfMxT228NMk6ehRS1PSl4e8PhbNZACSanGdhEwYCCg==",
        ),
        (
            f'"{AGENT}"',
            '"signature-agent"',
            datetime.fromtimestamp(1735693200, UTC),
            "e8N7S2MFd/qrd6T2R3tdfAuuANngKI7LFtKYI/vowzk4lAZYadIX6wW25MwG7DCT9RUKAJ0qVkU0mEeLElW1qg==",
            "jdq0SqOwHdyHr9+r5jw3iYZH6aNGKijYp/EstF4RQTQdi5N5YYKrD+mCT1HA1nZDsi6nJKuHxUi/5Syp3rLWBA==",
        ),
    ],
    ids=["dictionary", "string"],
)
def test_signature_is_that_of_the_draft_on_web_bot_auth(agent, component, expires, nonce, signature):
    assert key_id(KEY) == "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U"
    request = SimpleNamespace(
        method="GET", url="https://example.com/path/to/resource", headers={"Signature-Agent": agent}
    )
    components = ("@authority", component)
    parameters = {"created": CREATED, "expires": expires, "nonce": nonce, "tag": "web-bot-auth"}
    signed = sign_message(KEY, key_id(KEY), request, components, "sig2", **parameters)
    assert signed["Signature"] == f"sig2=:{signature}:"
    assert signed["Signature-Input"] == (
        f'sig2=("@authority" {component});created=1735689600;keyid="{key_id(KEY)}";alg="ed25519"'
        f';expires={int(expires.timestamp())};nonce="{nonce}";tag="web-bot-auth"'
    )


def verify(url, headers):
    resolver = MappingKeyResolver(public_keys={key_id(KEY): KEY.public_key()}, private_keys={})
    verifier = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=resolver)
    verifier.verify(SimpleNamespace(method="GET", url=url, headers=headers), expect_tag="web-bot-auth")


def test_signed_request_is_accepted_once_and_by_its_host_only():
    guard = Guard(KEY.public_key(), key_id(KEY), AGENT)
    headers = RequestSigner(KEY, AGENT).sign("http", "Images.example:8080")
    assert guard.check({}) == 401
    assert guard.check(headers | {"Host": "other.example:8080"}) == 403
    assert guard.check(headers | {"Host": "images.example:8080"}) == 200
    assert guard.check(headers | {"Host": "images.example:8080"}) == 403
    verify("http://images.example:8080/a/b?c=d", headers)
    with pytest.raises(InvalidSignature):
        verify("http://images.example/a/b?c=d", headers)


def test_signature_leaves_out_the_standard_port_and_expires():
    signer = RequestSigner(KEY, AGENT, seconds=30, agent_form="string")
    headers = signer.sign("https", "example.com:443")
    verify("https://example.com/", headers)
    assert headers["Signature-Agent"] == f'"{AGENT}"'
    created, expires = (
        int(headers["Signature-Input"].partition(f";{name}=")[2].partition(";")[0]) for name in ("created", "expires")
    )
    assert expires - created == 30
    assert signer.sign("https", "example.com") != signer.sign("https", "example.com")


DOCUMENT = (
    b'{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U",'
    b'"x":"JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs","use":"sig"}]}'
)


def test_directory_and_its_signature_are_those_of_the_draft():
    assert make_document([KEY]) == DOCUMENT
    assert make_headers([KEY], DOCUMENT, AGENT, CREATED, EXPIRES) == {
        "Content-Type": "application/http-message-signatures-directory+json",
        "Cache-Control": "max-age=86400",
        "Content-Digest": "sha-256=:CADMT2aBdV/rqQr/NIru64ERQkCobVvllA4V0fLFDu0=:",
        "Signature-Input": 'binding0=("@authority";req "content-digest");created=1735689600'
        ';keyid="poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U";alg="ed25519";expires=4889289600'
        ';tag="http-message-signatures-directory"',
        "Signature": "binding0=:yiHq0TXrbpzbmlttAQMpYoAufitFJUWuNsakB7QQMoN0EHbo5o51bZRVR8az/ptTWCwllix9clrKXfGKwdPzBg==:",
    }


@pytest.mark.parametrize(
    "text",
    ["", "a.test", "http://a.test", "https://", "https://a.test/keys", "https://a.test?x=1", "https://a.test#x",
     "https://u:p@a.test", 'https://a"b.test', "https://a.test:x", "https://bücher.test", "https://[::1]", "https://a b", "https://[a"],
)  # fmt: skip
def test_parse_agent_refuses_what_is_no_https_origin(text):
    with pytest.raises(ValueError, match="must be https:// and a host, without a path"):
        parse_agent(text)
