"""A small web on loopback with several hosts, which logs each request; for the tests of the crawl."""

import gzip
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate

from tests.servers.loopback import Handler, serving


@dataclass(frozen=True)
class LoggedRequest:
    """A request that the server received."""

    at: float
    host: str
    path: str
    agent: str


class Web:
    """The server; each host is a method that sends the response to a path."""

    def __init__(self):
        self.log = []
        self.failures = {}
        self.closing = threading.Event()
        self.guard = None
        web = self

        class Answering(Handler):
            protocol_version = "HTTP/1.1"

            def handle(self):
                with suppress(ConnectionError):  # the crawler closes the connection, as some tests expect
                    super().handle()

            def do_GET(self):
                host = self.headers["Host"].partition(":")[0]
                web.log.append(LoggedRequest(time.monotonic(), host, self.path, self.headers["User-Agent"]))
                status = web.guard.check(self.headers) if web.guard else 200
                with suppress(ConnectionError, TimeoutError):
                    web.answer(self, host, self.path) if status == 200 else self.send("", status)

            def send(self, body, status=200, kind="text/html; charset=utf-8", **more):
                self.answer(status, body.encode() if isinstance(body, str) else body, Content_Type=kind, **more)

        self.handler = Answering
        self.port = 0

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def requests_to(self, host, path=None):
        return [a for a in self.log if a.host == host and path in (None, a.path)]

    def answer(self, to, host, path):
        name = host.partition(".")[0].replace("-", "_")
        getattr(self, name, self.missing)(to, path)

    def missing(self, to, path):
        to.send("nothing here", 404)

    # The hosts

    def pets(self, to, path):
        """Serve an ordinary site with all cases that a crawler must handle."""
        if path == "/robots.txt":
            to.send(
                "User-agent: *\nDisallow: /private/\n\nUser-agent: pairmill\nDisallow: /secret/\n", kind="text/plain"
            )
        elif path == "/":
            links = "/dogs /cats/ /secret/x /private/ok /moved /loop /inner /photo.jpg /gone /huge /busy /mute /hidden"
            links += " /headers /lies /paid /usage http://elsewhere.example/ mailto:a@b.example /dogs#again"
            to.send(
                "".join(f"<a href={link}>x</a>" for link in links.split())
                + '<a href=/nofollow rel="external nofollow">n</a><img src=/logo.png alt="The logo of the pets site">'
            )
        elif path in ("/dogs", "/cats/", "/private/ok", "/target", "/last"):
            what = path.strip("/").replace("/", "-")
            page = f'<img src="/img/{what}.jpg" alt="A picture about {what} on this page"><a href="/">home</a>'
            if what == "cats":
                to.send(gzip.compress(page.encode()), Content_Encoding="gzip")
            else:
                to.send(page)
        elif path == "/moved":
            to.send("", 301, Location="/target")
        elif path == "/loop":
            to.send("", 302, Location="/loop")
        elif path == "/inner":
            to.send("", 302, Location=f"http://127.0.0.1:{self.port}/admin")
        elif path == "/photo.jpg":
            to.send_response(200)
            to.send_header("Content-Type", "image/jpeg")
            to.send_header("Content-Length", str(50_000_000))
            to.end_headers()
            for _ in range(50):
                to.wfile.write(bytes(1_000_000))
        elif path == "/huge":
            to.send("<p>" + "x" * 300_000)
        elif path == "/busy":
            self.failures[path] = self.failures.get(path, 0) + 1
            first = self.failures[path] == 1
            later = formatdate(time.time() + 2, usegmt=True)  # in whole seconds
            to.send("busy", 429, Retry_After=later) if first else to.send('<a href="/last">last</a>')
        elif path == "/mute":
            to.send(
                '<meta name="robots" content="nofollow"><img src=/m.jpg alt="A page that is mute"><a href=/never>n</a>'
            )
        elif path == "/hidden":
            to.send('<meta name="pairmill" content="noindex"><img src=/h.jpg alt="Not to be kept"><a href=/dogs>d</a>')
        elif path == "/headers":
            to.send('<img src=/x.jpg alt="Not to be kept"><a href=/never>n</a>', X_Robots_Tag="none")
        elif path == "/paid":
            to.send('<img src=/x.jpg alt="Not to be kept">', 402, Crawler_Price="USD 0.01")
        elif path == "/usage":
            to.send('<meta name="content-usage" content="train-ai=n"><img src=/u.jpg alt="Not for training">')
        elif path == "/lies":
            to.send(b"\xff\xd8\xff" * 100, kind="image/jpeg")
        else:
            self.missing(to, path)

    def reserved(self, to, path):
        """Serve a site that is not for training, except for its front page."""
        if path == "/robots.txt":
            lines = (
                "User-agent: *",
                "Allow: /",
                "Content-Signal: search=yes,ai-train=no",
                "Content-Signal: /$ ai-train=yes",
            )
            to.send("\n".join(lines), kind="text/plain")
        else:
            to.send('<a href="/inside">x</a><img src="/r.jpg" alt="A front page for all uses">')

    def slow(self, to, path):
        """Serve a site that requires half a second between requests."""
        if path == "/robots.txt":
            to.send("User-agent: *\nCrawl-delay: 0.5\n", kind="text/plain")
        else:
            to.send(
                "".join(f'<a href="/{i}">x</a>' for i in range(5))
                + f'<img src="{path}.jpg" alt="Slowly served {path}">'
            )

    def calendar(self, to, path):
        """Serve a page for each day, without end."""
        day = int(path.strip("/") or 0) if path != "/robots.txt" else None
        to.send("", 404) if day is None else to.send(
            f'<a href="/{day + 1}">next</a><img src={day}.jpg alt="The day {day}">'
        )

    def linker(self, to, path):
        """Serve a page that links to private IP addresses."""
        port = self.port
        hosts = (f"127.0.0.1:{port}", f"localhost:{port}", f"[::ffff:127.0.0.1]:{port}", "169.254.169.254")
        links = "".join(f'<a href="http://{host}/">in</a>' for host in hosts)
        to.send(f'{links}<img src=/x.jpg alt="A page with links">', 404 if path == "/robots.txt" else 200)

    def down(self, to, path):
        """Serve a robots.txt that cannot be read."""
        to.send("", 503)

    def sleepy(self, to, path):
        """Serve a site that requires a crawl delay of one day."""
        body = "User-agent: *\nCrawl-delay: 86400\n" if path == "/robots.txt" else "<p>x"
        to.send(body, kind="text/plain" if path == "/robots.txt" else "text/html")

    def hanging(self, to, path):
        """Respond to no request but that for robots.txt, until the test ends."""
        if path != "/robots.txt":
            self.closing.wait()
        to.send("", 404)


@contextmanager
def served():
    web = Web()
    with serving(web.handler) as server:
        web.port = server.server_port
        yield web
        web.closing.set()
