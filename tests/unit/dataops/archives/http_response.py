"""Builds HTTP responses for the tests of archives."""

HTML = b"<html><img src=1.jpg alt=one></html>"


def http(body=HTML, status="200 OK", **headers):
    """Return an HTTP response with an HTML body."""
    fields = {"Content-Type": "text/html; charset=utf-8"} | {name.replace("_", "-"): v for name, v in headers.items()}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items() if value)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
