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
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.cases.wishes_cases import list_cases
from benchmarks.measure import Row, finish, make_parser, require_peers, run_in_process
from dataops.home import CHECKOUT
from tests.archived_images import record, write_archive
from tests.servers.loopback import Handler, serving

PAGE, BEGIN, END = CHECKOUT / "benchmarks" / "results" / "notes.md", "<!-- wishes -->\n", "<!-- end of wishes -->\n"
HTML = ("Content-Type", "text/html; charset=utf-8")


def host_of(number):
    """Return the host of a case."""
    return f"case-{number:03d}.example"


class Hosts(Handler):
    """Serves the hosts of all cases, to clients and as an HTTP proxy."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        parts = urlsplit(self.path)
        host = (parts.hostname or self.headers.get("Host", "").partition(":")[0]).lower()
        status, headers, body = self.find(host, parts.path or "/")
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def find(self, host, path):
        """Return status, headers and body of a URL."""
        cases = vars(self.server)["cases"]
        name = host.partition(".")[0].removeprefix("case-")
        if not name.isdecimal() or int(name) >= len(cases):
            return 404, (), b""
        number, case = int(name), cases[int(name)]
        if path in case.files:
            status, headers, body = case.files[path]
            return status, [*headers.items()], body.replace(b"HOST", host.encode())
        if path == "/":
            return 200, [HTML, *case.headers], case.page(number)
        if path == "/image.jpg":
            return 200, [("Content-Type", "image/jpeg"), *case.headers, *case.image_headers], case.image(number)
        return 404, (), b""


# Each side runs in a process and a folder of its own, and returns the hosts of its images.


def pairmill(hosts, port):
    """Extract the archived pages, filter with the lists, download, and pack, which reads the lists again."""
    from dataops.snapshot import read_parts
    from dataops.store import open_store
    from flows.config import RunConfig
    from tests.growing import run

    cases, records = list_cases(), []
    for number, host in enumerate(hosts):
        head = "".join(f"{name}: {value}\r\n" for name, value in (HTML, *cases[number].headers))
        answer = f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + cases[number].page(number)
        records.append(record(f"http://{host}/", answer))
    write_archive(Path("pages.warc.gz"), records)
    entries = [case.entry(number, host) for number, (case, host) in enumerate(zip(cases, hosts, strict=True))]
    Path("list.txt").write_text("\n".join(filter(None, entries)) + "\n")
    download = {"contact": "https://example.org/wishes", "host_rate": 0, "retries": 0, "retry": {"rounds": 0}}
    download["connect_to"] = dict.fromkeys(hosts, f"127.0.0.1:{port}")
    config = RunConfig.model_validate(
        {
            **{"name": "wishes", "store": {"uri": "store"}, "download": download, "register": {"model_name": "wishes"}},
            "source": {"kind": "warc", "paths": ["pages.warc.gz"]},
            "filter": {"opt_out_lists": {"list": "list.txt"}},
        }
    )
    _, manifests = run(config, Path("home").absolute())
    urls = read_parts(open_store("store"), manifests["pack"])["url"].to_pylist()
    return [str(urlsplit(url).hostname) for url in urls]


def img2dataset(hosts, port):
    """Download the list of images."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import pyarrow.parquet as pq
    from img2dataset import download

    with Path("list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["url"], *([f"http://{host}/image.jpg"] for host in hosts)])
    download(
        url_list="list.csv", input_format="csv", url_col="url", output_folder="out", output_format="files", thread_count=8,
        processes_count=1, retries=0, user_agent_token="pairmill", skip_reencode=True, min_image_size=0,
    )  # fmt: skip
    tables = [pq.read_table(path).to_pylist() for path in Path("out").glob("*.parquet")]
    return [str(urlsplit(row["url"]).hostname) for rows in tables for row in rows if row["status"] == "success"]


def scrapy(hosts, port):
    """Request the images with ROBOTSTXT_OBEY."""
    from scrapy import Spider
    from scrapy.crawler import CrawlerProcess

    found = []

    class Images(Spider):
        name = "images"
        start_urls = tuple(f"http://{host}/image.jpg" for host in hosts)

        def parse(self, response, **_):
            found.append(str(urlsplit(response.url).hostname))

    process = CrawlerProcess(
        {"ROBOTSTXT_OBEY": True, "USER_AGENT": "pairmill", "LOG_ENABLED": False, "TELNETCONSOLE_ENABLED": False,
         "RETRY_ENABLED": False, "DOWNLOAD_DELAY": 0}
    )  # fmt: skip
    process.crawl(Images)
    process.start()
    return found


SIDES = {"pairmill": pairmill, "img2dataset": img2dataset, "Scrapy": scrapy}


def run_side(side, port):
    """Return the hosts whose image a side has in the end."""
    hosts = [host_of(number) for number in range(len(list_cases()))]
    for name in [name for name in os.environ if "proxy" in name.lower()]:
        del os.environ[name]
    if side != "pairmill":
        os.environ |= {"http_proxy": f"http://127.0.0.1:{port}", "no_proxy": ""}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PAIRMILL_HOME"] = str(Path(folder) / "home")
        os.chdir(folder)
        found = SIDES[side](hosts, port)
        os.chdir(CHECKOUT)
    return found


def is_met(case, used):
    """Return whether a crawler did what the owner wants."""
    return used != case.forbids


def write_table(cases, used):
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


def main():
    """Run all sides; exit with 1 if ours fails a case."""
    parser = make_parser(__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/results/notes.md")
    options = parser.parse_args()
    require_peers("img2dataset", "scrapy")
    cases = list_cases()
    with serving(Hosts, cases=cases) as server:
        used = {side: set(run_in_process(run_side, side, server.server_port)[0]) for side in SIDES}
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
        for peer in [*SIDES][1:]
    ]
    details = {"cases": len(cases), "failed": failed}
    return finish("wishes", rows, ("img2dataset", "scrapy"), equal=not failed, as_json=options.json, details=details)


if __name__ == "__main__":
    raise SystemExit(main())
