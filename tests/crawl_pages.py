"""Pages with images, and WARC files of them."""

import gzip

DOG = "A brown dog runs over the wet beach"
CAT = "A small grey cat sleeps in the warm sun"


def write_warc(path, pages, *, cut=0):
    """Write a WARC file with a gzip member for each record, without its last `cut` bytes."""
    data = b""
    for url, html in pages.items():
        http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + html.encode()
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nContent-Length: {len(http)}\r\n\r\n"
        data += gzip.compress(head.encode() + http + b"\r\n\r\n", mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data[: len(data) - cut])
    return path


ANIMALS = {
    "http://pets.example/": f"""<img src=dog.jpg alt="{DOG}" title="Dog on the wet beach"><img src="/cat.png" alt="{CAT}">
        <figure><img src=b/../cow.jpg><figcaption>The old cow stands<br>behind the fence</figcaption></figure>
        <img src="data:image/png;base64,AAAA" alt="A dot in a picture"><img src="javascript:x()" alt="no">
        <img src=x.jpg>""",
    "http://pets.example/more": f'<img src=dog.jpg alt="{DOG.upper()}"><img src=/cat.png alt="{CAT}">',
}
PLACE_PAGES = {
    "http://places.example/a": """<base href="http://cdn.example/i/">
        <img src=1.jpg alt="The harbour of the old town in the evening"><img src=2.jpg alt="IMG_2034.jpg">
        <img src=3.jpg alt="Der Hund und die Katze schlafen auf dem Sofa"><img src=4.jpg alt="ab">""",
    "http://places.example/b": f"""<img src="http://pets.example/cat.png" alt="{CAT}">
        <img src=5.svg alt="The drawing of a house">""",
}
