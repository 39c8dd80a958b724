"""The directory of public keys, by the signed response of the draft's test vectors."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.unit.tasks.web.identity.test_signer import AGENT, CREATED, EXPIRES, KEY

from tasks.web.identity.agent import parse_agent
from tasks.web.identity.directory import make_document, make_headers
from tasks.web.identity.key_file import key_id

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


def test_directory_of_two_keys_has_a_signature_of_each():
    other = Ed25519PrivateKey.generate()
    document = make_document([KEY, other])
    assert [one["kid"] for one in json.loads(document)["keys"]] == [key_id(KEY), key_id(other)]
    now = datetime.now(UTC)
    headers = make_headers([KEY, other], document, AGENT, now, now + timedelta(days=1))
    assert headers["Signature-Input"].count(';tag="http-message-signatures-directory"') == 2
    assert headers["Signature"].startswith("binding0=:")
    assert ", binding1=:" in headers["Signature"]


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Crawler.Example.org/", "https://crawler.example.org"),
        (" https://a.test:443", "https://a.test"),
        ("https://a.test:8443", "https://a.test:8443"),
    ],
)
def test_parse_agent_returns_an_origin(text: str, origin: str):
    assert parse_agent(text) == origin


@pytest.mark.parametrize(
    "text",
    ["", "a.test", "http://a.test", "https://", "https://a.test/keys", "https://a.test?x=1", "https://a.test#x",
     "https://u:p@a.test", 'https://a"b.test', "https://a.test:x", "https://bücher.test", "https://[::1]", "https://a b", "https://[a"],
)  # fmt: skip
def test_parse_agent_refuses_what_is_no_https_origin(text: str):
    with pytest.raises(ValueError, match="must be https:// and a host, without a path"):
        parse_agent(text)
