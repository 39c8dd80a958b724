"""Detect the format of an image by its signature."""

KINDS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "avif": "AVIF"}
"""Kinds that are decoded, with Pillow's name of each. Of an animation, the first frame is decoded."""


def sniff(data: bytes) -> str:
    """Return the kind of bytes by their signature: one of KINDS, a kind that is not decoded, or '' if unknown.

    Source: WHATWG MIME Sniffing, section 6.1 (images) and 7.1 (HTML); ISO/IEC 14496-12 brands for AVIF and HEIC.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(b"RIFF") and data[8:14] == b"WEBPVP":
        return "webp"
    if data.startswith(b"BM"):
        return "bmp"
    if data[4:8] == b"ftyp":
        return "avif" if data[8:12] in (b"avif", b"avis") else "heif"
    return _sniff_other(data)


def _sniff_other(data: bytes) -> str:
    for signature, kind in (
        (b"II*\0", "tiff"),
        (b"MM\0*", "tiff"),
        (b"\0\0\1\0", "ico"),
        (b"\0\0\0\x0cjP", "jpeg2000"),
        (b"\xff\x4f\xff\x51", "jpeg2000"),
        (b"8BPS", "psd"),
        (b"%PDF", "pdf"),
        (b"\x1f\x8b", "gzip"),
    ):
        if data.startswith(signature):
            return kind
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<title")):
        return "html"
    if b"<svg" in head:
        return "svg"
    return "html" if head.startswith(b"<") else ""
