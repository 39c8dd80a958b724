import struct

import pytest

from dataops.images.kinds import sniff
from dataops.rights.image_marks import MAX_MARKERS
from dataops.rights.signals import find_in_image
from tests.costs import bounded
from tests.image_files import noise, png_chunk, riff_chunk, segment

VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
PACKET = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" {attribute}>{element}</rdf:Description></rdf:RDF></x:xmpmeta>'
)


def packet(value, form="attribute"):
    forms = {
        "attribute": ("attribute", f'plus:DataMining="{VOCABULARY}{value}"'),
        "element": ("element", f"<plus:DataMining>\n  {VOCABULARY}{value}\n</plus:DataMining>"),
        "resource": ("element", f'<p:DataMining rdf:resource="{VOCABULARY}{value}"/>'),
        "bare": ("element", f"<plus:DataMining>{value}</plus:DataMining>"),
    }
    field, text = forms[form]
    return PACKET.format(**({"attribute": "", "element": ""} | {field: text})).encode()


def cbor_text(text):
    data = text.encode()
    return (bytes([0x60 + len(data)]) if len(data) < 24 else bytes([0x78, len(data)])) + data


def cbor_map(entries):
    body = b"".join(cbor_text(k) + (cbor_map(v) if isinstance(v, dict) else cbor_text(v)) for k, v in entries.items())
    return bytes([0xA0 + len(entries)]) + body


def jumbf(kind, content):
    return struct.pack(">I4s", len(content) + 8, kind) + content


def c2pa(uses, prefix="c2pa", **more):
    """Return a manifest store with only this assertion, in the form of C2PA's own writer."""
    label = jumbf(b"jumd", b"cbor" + bytes(12) + b"\x03" + f"{prefix}.training-mining".encode() + b"\0")
    entries = {f"{prefix}.{name}": {**more, "use": use} for name, use in uses.items()}
    return jumbf(b"jumb", label + jumbf(b"cbor", cbor_map({"entries": entries})))


def with_xmp(kind, xmp):
    data = noise(kind)
    if kind == "JPEG":
        return data[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp) + data[2:]
    if kind == "PNG":
        return data[:33] + png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + data[33:]
    if kind == "GIF":
        end = data.rindex(b"\x3b")
        return data[:end] + b"\x21\xff\x0bXMP DataXMP" + xmp + b"\x01\0\0" + data[end:]
    return grown(data, riff_chunk(b"XMP ", xmp))


def with_c2pa(kind, store):
    data = noise(kind)
    if kind == "JPEG":
        split = 40  # over two segments, like stores of more than 64 KiB
        contents = [store[:split], store[:8] + store[split:]]
        segments = [segment(0xEB, b"JP\0\1" + struct.pack(">I", n) + content) for n, content in enumerate(contents, 1)]
        return data[:2] + b"".join(segments) + data[2:]
    if kind == "PNG":
        return data[:33] + png_chunk(b"caBX", store) + data[33:]
    return grown(data, riff_chunk(b"C2PA", store))


def grown(data, chunk):
    """Return a WebP with one more chunk."""
    return data[:4] + struct.pack("<I", len(data) - 8 + len(chunk)) + data[8:] + chunk


def found(data):
    return list(find_in_image(data, sniff(data) or ""))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("form", ["attribute", "element", "resource", "bare"])
def test_find_in_image_finds_the_data_mining_property_of_iptc(kind, form):
    for value in ("DMI-PROHIBITED", "DMI-PROHIBITED-AIMLTRAINING", "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING"):
        assert found(with_xmp(kind, packet(value, form))) == [("iptc", value)]
    for value in ("DMI-ALLOWED", "DMI-UNSPECIFIED"):
        assert found(with_xmp(kind, packet(value, form))) == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("prefix", ["c2pa", "cawg"])
def test_find_in_image_finds_the_training_assertion_of_c2pa(kind, prefix):
    uses = {"ai_inference": "notAllowed", "ai_training": "notAllowed", "data_mining": "allowed"}
    assert found(with_c2pa(kind, c2pa(uses, prefix))) == [("c2pa", "ai_training notAllowed")]
    uses = {"ai_generative_training": "constrained", "ai_training": "allowed"}
    assert found(with_c2pa(kind, c2pa(uses, prefix, constraint_info="ask"))) == [
        ("c2pa", "ai_generative_training constrained")
    ]
    assert found(with_c2pa(kind, c2pa({"ai_training": "allowed", "ai_inference": "notAllowed"}, prefix))) == []


def test_find_in_image_reads_the_assertion_as_json():
    text = b'c2pa.training-mining {"entries": {"c2pa.ai_training": {"use": "notAllowed"}}}'
    assert found(with_c2pa("PNG", jumbf(b"jumb", text))) == [("c2pa", "ai_training notAllowed")]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_find_in_image_searches_only_metadata(kind):
    assert found(noise(kind)) == []
    assert found(noise(kind) + packet("DMI-PROHIBITED") + c2pa({"ai_training": "notAllowed"})) == []


def test_find_in_image_returns_both_kinds_once():
    xmp = packet("DMI-PROHIBITED")
    data = with_xmp("PNG", xmp + xmp)
    data = data[:33] + png_chunk(b"caBX", c2pa({"ai_training": "notAllowed"})) + data[33:]
    assert found(data) == [("iptc", "DMI-PROHIBITED"), ("c2pa", "ai_training notAllowed")]


FLOODS = [
    b"DataMining ", b"DataMining" + b"." * 40, b"DataMining." + b"a" * 80, b"DataMining.", b"DMI-", b"DataMining DMI-",
    b"c2pa.ai_training", b"c2pa.ai_training" + b"use" * 130, b"c2pa.", b"use", b"\xff", b"\xff\xe1\0\2", b"\xff\xe1",
    b"\xff\0", b"JP\0\1", b"\0\0\0\0iTXt\0\0\0\0", b"XMP \0\0\0\0",
]  # fmt: skip


@pytest.mark.parametrize("flood", FLOODS)
def test_find_in_image_takes_linear_time(flood):
    flood = b"DataMining training-mining " + flood * (3_000_000 // len(flood))
    with bounded(1.5):  # about 0.08 s; the pattern of before took 3 s for one of them
        for start in (b"GIF89a", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 "):
            found(start + flood)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_find_in_image_counts_a_flood_as_a_mark(kind):
    """A flood of words could otherwise hide the mark behind it."""
    allowed = packet("DMI-ALLOWED")
    assert found(with_xmp(kind, allowed * MAX_MARKERS)) == []
    assert found(with_xmp(kind, allowed * 99 + packet("DMI-PROHIBITED"))) == [("iptc", "DMI-PROHIBITED")]
    assert found(with_xmp(kind, allowed * (MAX_MARKERS + 1))) == [("iptc", f"over {MAX_MARKERS} properties")]


def test_find_in_image_counts_many_entries_as_a_mark():
    one = b"c2pa.training-mining" + cbor_map({"c2pa.ai_training": {"use": "allowed"}})
    assert found(with_c2pa("PNG", jumbf(b"jumb", one * MAX_MARKERS))) == []
    assert found(with_c2pa("PNG", jumbf(b"jumb", one * (MAX_MARKERS + 1)))) == [("c2pa", f"over {MAX_MARKERS} entries")]


def test_find_in_image_skips_what_libjpeg_skips_between_segments():
    data, xmp = noise("JPEG"), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet("DMI-PROHIBITED"))
    for junk in (b"\0", b"junk", b"\xff\0\xff", b"\xff" * 20_000):
        assert found(data[:2] + segment(0xE0, b"x") + junk + xmp + data[2:]) == [("iptc", "DMI-PROHIBITED")]


def test_find_in_image_reads_a_value_far_from_its_property():
    element = f"<plus:DataMining>{' ' * 90}<rdf:value rdf:resource='{VOCABULARY}DMI-PROHIBITED'/></plus:DataMining>"
    assert found(with_xmp("PNG", PACKET.format(attribute="", element=element).encode())) == [("iptc", "DMI-PROHIBITED")]
