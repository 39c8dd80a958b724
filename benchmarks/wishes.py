"""Whether crawlers of images obey what owners say on training, and use what owners permit: ours, img2dataset's, Scrapy's.

    python -m benchmarks.wishes [--json] [--write]

Each case of benchmarks/cases/wishes_cases.py is a host on a loopback server, whose page shows one image. Each side has its
default settings, and reaches the hosts through the server as its proxy. An image that a side has afterwards counts as
used. pairmill reads the archived pages, filters and downloads; img2dataset downloads the list of images (it reads
X-Robots-Tag); Scrapy requests the images with ROBOTSTXT_OBEY. `--write` puts the table into benchmarks/results/notes.md.

Two numbers a side: prohibitions that it obeys, and permissions that it uses. All rows of one call are of one machine and
minute; nothing is timed. datatrove and Daft are not measured: they fetch URLs without asking any of these files.
"""

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.cases.wishes_cases import Case, list_cases
from benchmarks.measure import Row, finish, make_parser, require_peers
from dataops.home import CHECKOUT

PAGE, BEGIN, END = CHECKOUT / "benchmarks" / "results" / "notes.md", "<!-- wishes -->\n", "<!-- end of wishes -->\n"
SIDES = ("pairmill", "img2dataset", "Scrapy")


def host_of(number: int) -> str:
    """Return the host of a case."""
    return f"case-{number:03d}.example"


class Handler(BaseHTTPRequestHandler):
    """Serves the hosts of all cases, to clients and as an HTTP proxy."""

    protocol_version = "HTTP/1.1"
    cases: Sequence[Case] = ()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        host = (parts.hostname or self.headers.get("Host", "").partition(":")[0]).lower()
        status, headers, body = self.answer(host, parts.path or "/")
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, host: str, path: str) -> tuple[int, Sequence[tuple[str, str]], bytes]:
        name = host.partition(".")[0].removeprefix("case-")
        if not name.isdecimal() or int(name) >= len(self.cases):
            return 404, (), b""
        number = int(name)
        case = self.cases[number]
        if path in case.files:
            status, headers, body = case.files[path]
            return status, [*headers.items()], body.replace(b"HOST", host.encode())
        if path == "/":
            return 200, [("Content-Type", "text/html; charset=utf-8"), *case.headers], case.page(number)
        if path == "/image.jpg":
            return 200, [("Content-Type", "image/jpeg"), *case.headers, *case.image_headers], case.image(number)
        return 404, (), b""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """Clients that refuse an image close their connection, which is no error here."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextmanager
def served(cases: Sequence[Case]) -> Any:
    """Yield the port of a server on loopback with all cases."""
    handler = type("Cases", (Handler,), {"cases": cases})
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


# Each side runs in a process of its own, `python -m benchmarks.wishes --side NAME SPEC`, and prints its images' hosts.


def pairmill(spec: Mapping[str, Any]) -> list[str]:
    """Extract the archived pages, filter with the lists, download, and pack, which reads the lists again."""
    import polars as pl
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    from dataops.snapshot import read_parts
    from dataops.store import open_store
    from flows.config import load_config
    from tasks.curate.stage import CURATE
    from tasks.download.stage import DOWNLOAD
    from tasks.engine.context import Context
    from tasks.engine.stage import make, plan
    from tasks.extract.stage import EXTRACT
    from tasks.filter.stage import FILTER
    from tasks.pack.stage import PACK

    cases, hosts = list_cases(), spec["hosts"]
    with Path("pages.warc.gz").open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for number, host in enumerate(hosts):
            case = cases[number]
            fields = [("Content-Type", "text/html; charset=utf-8"), *case.headers]
            headers = StatusAndHeaders("200 OK", fields, protocol="HTTP/1.1")
            payload = io.BytesIO(case.page(number))
            writer.write_record(
                writer.create_warc_record(f"http://{host}/", "response", payload=payload, http_headers=headers)
            )
    entries = [case.entry(number, host) for number, (case, host) in enumerate(zip(cases, hosts, strict=True))]
    Path("list.txt").write_text("\n".join(filter(None, entries)) + "\n")
    connected = json.dumps({host: f"127.0.0.1:{spec['port']}" for host in hosts}).replace('": ', '" = ')
    Path("wishes.toml").write_text(
        'name = "wishes"\n[source]\nkind = "warc"\npaths = ["pages.warc.gz"]\n'
        '[filter]\nopt_out_lists = { list = "list.txt" }\n'
        '[download]\ncontact = "https://example.org/wishes"\nhost_rate = 0\nretries = 0\nretry = { rounds = 0 }\n'
        f"connect_to = {connected}\n"
    )
    config = load_config(Path("wishes.toml"), until="pack")
    context = Context(store=open_store("store"), home=Path("home").absolute())
    pairs = make(plan(EXTRACT, config.source, 0, []), context)
    filtered = make(plan(FILTER, config.filter, 0, [pairs]), context)
    downloaded = make(plan(DOWNLOAD, config.download, 0, [filtered]), context)
    curated = make(plan(CURATE, config.curate, 0, [downloaded]), context)
    packed = make(plan(PACK, config.pack.within(config), 0, [curated, downloaded]), context)
    return [str(urlsplit(url).hostname) for url in pl.Series(read_parts(context.store, packed)["url"])]


def img2dataset(spec: Mapping[str, Any]) -> list[str]:
    """Download the list of images."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import pyarrow.parquet as pq
    from img2dataset import download

    with Path("list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["url"], *([f"http://{host}/image.jpg"] for host in spec["hosts"])])
    download(
        url_list="list.csv", input_format="csv", url_col="url", output_folder="out", output_format="files", thread_count=8,
        processes_count=1, retries=0, user_agent_token="pairmill", skip_reencode=True, min_image_size=0,
    )  # fmt: skip
    tables = [pq.read_table(path).to_pylist() for path in Path("out").glob("*.parquet")]
    return [str(urlsplit(row["url"]).hostname) for rows in tables for row in rows if row["status"] == "success"]


def scrapy(spec: Mapping[str, Any]) -> list[str]:
    """Request the images with ROBOTSTXT_OBEY."""
    from scrapy import Spider
    from scrapy.crawler import CrawlerProcess

    found: list[str] = []

    class Images(Spider):
        name = "images"
        start_urls = tuple(f"http://{host}/image.jpg" for host in spec["hosts"])  # pyright: ignore

        def parse(self, response: Any, **_: Any) -> None:
            found.append(str(urlsplit(response.url).hostname))

    process = CrawlerProcess(
        {"ROBOTSTXT_OBEY": True, "USER_AGENT": "pairmill", "LOG_ENABLED": False, "TELNETCONSOLE_ENABLED": False,
         "RETRY_ENABLED": False, "DOWNLOAD_DELAY": 0}
    )  # fmt: skip
    process.crawl(Images)
    process.start()
    return found


def run_side(side: str, port: int) -> set[str]:
    """Return the hosts whose image a side has in the end."""
    hosts = [host_of(number) for number in range(len(list_cases()))]
    proxy = {} if side == "pairmill" else {"http_proxy": f"http://127.0.0.1:{port}", "no_proxy": ""}
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()} | proxy
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "benchmarks.wishes",
            "--side",
            side,
            json.dumps({"port": port, "hosts": hosts}),
        ]
        environment |= {"PYTHONPATH": str(CHECKOUT), "PAIRMILL_HOME": str(Path(folder) / "home")}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side} ended with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    return set(json.loads(done.stdout.splitlines()[-1]))


def is_met(case: Case, used: bool) -> bool:
    """Return whether a crawler did what the owner wants."""
    return used != case.forbids


def write_table(cases: Sequence[Case], used: Mapping[str, set[str]]) -> str:
    """Return the table of benchmarks/results/notes.md: by group, the cases and those that each side meets."""
    lines = [f"| signal | prohibitions | {' | '.join(SIDES)} | permissions | {' | '.join(SIDES)} |"]
    lines.append("|---" * (3 + 2 * len(SIDES)) + "|")
    groups = list(dict.fromkeys(case.group for case in cases))
    for group in (*groups, "all"):
        cells = [group]
        for forbids in (True, False):
            chosen = [n for n, one in enumerate(cases) if one.forbids == forbids and group in (one.group, "all")]
            cells.append(str(len(chosen)))
            cells += [str(sum(is_met(cases[n], host_of(n) in used[side]) for n in chosen)) for side in SIDES]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Run all sides; exit with 1 if ours fails a case."""
    if arguments[:1] == ["--side"]:
        side = {"pairmill": pairmill, "img2dataset": img2dataset, "Scrapy": scrapy}[arguments[1]]
        hosts = side(json.loads(arguments[2]))
        sys.stdout.write("\n" + json.dumps(sorted(set(hosts))) + "\n")
        return 0
    parser = make_parser(str(__doc__).partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/results/notes.md")
    options = parser.parse_args(arguments)
    require_peers("img2dataset", "scrapy")
    cases = list_cases()
    with served(cases) as port:
        used = {side: run_side(side, port) for side in SIDES}
    table = write_table(cases, used)
    failed = [
        f"{case.group}: {case.wish!r} is {'used' if case.forbids else 'not used'}"
        for number, case in enumerate(cases)
        if not is_met(case, host_of(number) in used["pairmill"])
    ]
    if not options.json:
        sys.stdout.write(table + "".join(f"pairmill fails {line}\n" for line in failed))
    if options.write:
        text = PAGE.read_text("utf-8")
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        PAGE.write_text(before + BEGIN + table + END + after, "utf-8")
    met = {
        side: Counter(case.forbids for n, case in enumerate(cases) if is_met(case, host_of(n) in used[side]))
        for side in SIDES
    }
    rows = [
        Row(f"{name}, {peer}", met["pairmill"][forbids], met[peer][forbids], peer, "cases")
        for name, forbids in (("prohibitions obeyed", True), ("permissions used", False))
        for peer in SIDES[1:]
    ]
    details = {"cases": len(cases), "failed": failed}
    return finish("wishes", rows, ("img2dataset", "scrapy"), equal=not failed, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
