"""What many downloaders on as many machines do to hosts, as a server of all hosts records it.

The cut by host, the order of tasks, rounds, rules, turns, connections and the state that moves are the real ones. A
downloader is a thread with a folder of its own for the state of hosts, and it resizes nothing: 200 processes would need
60 GB.
"""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pytest

from dataops.facts import FetchedShard
from dataops.snapshot import Counts, Draft, Record
from dataops.store import FolderStore
from tasks.download.config import DownloadConfig
from tasks.download.host_turns import HostPool
from tasks.download.outcome import split_by
from tasks.download.rounds import ShardTask, put_later_rows, split_by_class
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context
from tasks.engine.stage import Work
from tasks.web.fetch_error import FetchError
from tests.downloads import filtered

pytestmark = pytest.mark.timeout(300)
DOWNLOADERS, RATE, CONNECTIONS = 200, 20, 3
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(100)


@dataclass
class Web:
    """A server of all hosts, and what it saw."""

    port: int = 0
    requests: list[tuple[float, str, str]] = field(default_factory=list)
    """Time, host and path of each request."""
    busy: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    """Most requests at a time, by host."""
    refused_until: dict[str, float] = field(default_factory=dict)

    async def serve(self, reader, writer):
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                path = lines[0].split()[1]
                host = next(line[6:] for line in lines if line.startswith("Host: "))
                self.requests.append((time.monotonic(), host, path))
                self.busy[host] += 1
                self.most[host] = max(self.most[host], self.busy[host])
                await asyncio.sleep(0.02)
                status, more, body = self.answer(host, path)
                self.busy[host] -= 1
                writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body)
                await writer.drain()
        writer.close()

    def answer(self, host, path):
        if path in ("/robots.txt", "/ai.txt") or path.startswith("/.well-known"):
            return (
                (200, "", b"User-agent: *\nCrawl-delay: 1\n")
                if host == "slow.org" and "robots" in path
                else (404, "", b"")
            )
        if path.startswith("/to/"):
            return 302, f"Location: http://{path[4:]}\r\n", b""
        if host == "tired.org" and host not in self.refused_until:
            self.refused_until[host] = time.monotonic() + 3
            return 429, "Retry-After: 3\r\n", b""
        return 200, "", IMAGE


@pytest.fixture
def web():
    found, loop = Web(), asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(found.serve, "127.0.0.1", 0))
    found.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield found
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.1))
    loop.close()


def fetch(draft, task):
    """Request the images of a shard as tasks.download.worker does, without img2dataset."""
    from tasks.download.worker import add_starts, drop_handed, open_hosts, read_rows

    rows, reasons = read_rows(draft, task), {}
    with open_hosts(draft, task, rows, Path(str(task.host_state))) as opener:

        def request(row):
            try:
                opener.open(row[1])
                reasons[row[1]] = None
            except FetchError as error:
                reasons[row[1]] = str(error) if error.reason == "other" else error.reason

        pool = HostPool(8, opener.pace, opener.scope.find_url)
        for _ in pool.imap_unordered(request, enumerate(rows["url"].to_pylist())):
            pass
        rows = drop_handed(rows).append_column(
            "drop_reason", pa.array([reasons[url] for url in rows["url"].to_pylist()], pa.string())
        )
        handed, others = split_by(rows, lambda reason: reason == "handed_on")
        retried, final = split_by_class(others, task.retry_classes)
        name = f"{task.cut.number:05d}"
        facts = FetchedShard(
            bytes=0,
            seconds=0,
            round=task.round,
            hosts={},
            erased={},
            again=put_later_rows(draft, "again", name, add_starts(retried, opener, opener.scope.starts)),
            handed=put_later_rows(draft, "handed", name, add_starts(handed, opener, opener.handed)),
        )
    dropped = Counter(reason for reason in final["drop_reason"].to_pylist() if reason)
    counts = Counts(input=final.num_rows, kept=final.num_rows - dropped.total(), dropped=dict(dropped))
    return Record(task=task.id, counts=counts, facts=facts.as_json())


class Machines(Executor):
    """Runs the tasks of a download in threads, each of which is a machine of its own."""

    def __init__(self, folder, number):
        self._threads, self._folder = ThreadPoolExecutor(number), folder

    def submit(self, fn, /, *args, **kwargs):
        task = args[-1]
        if not isinstance(task, ShardTask):
            return self._threads.submit(fn, *args, **kwargs)

        def run():
            machine = self._folder / threading.current_thread().name
            return fn(fetch, *args[1:-1], replace(task, host_state=str(machine)))

        return self._threads.submit(run)


def test_200_downloaders_are_together_as_polite_as_one(tmp_path, web):
    hosts = {f"h{rank}.com": max(1, 120 // rank) for rank in range(1, 101)}
    urls = [f"http://{host}/{n}.png" for host, rows in hosts.items() for n in range(rows)]
    urls += [f"http://tired.org/{n}.png" for n in range(40)] + [f"http://slow.org/{n}.png" for n in range(6)]
    urls += [f"http://h{n}.com/to/h1.com/of-{n}.png" for n in range(60, 90)]  # to a host of another downloader
    urls += [f"http://h{n}.com/to/cdn.net/of-{n}.png" for n in range(60, 90)]  # to a host that is nobody's
    store = FolderStore(tmp_path / "store")
    names = {*hosts, "tired.org", "slow.org", "cdn.net"}
    config = DownloadConfig.model_validate(
        {
            "shard_size": 6,
            "host_rate": RATE,
            "host_concurrency": CONNECTIONS,
            "connect_to": dict.fromkeys(names, f"127.0.0.1:{web.port}"),
            "timeout": 30,
            "host_patience": 60,
            "max_crawl_delay": 10,
            "retry": {"delay": 4},
        }
    )
    draft = Draft(store, "download", "k")
    context = Context(store, tmp_path, workers=DOWNLOADERS, pool=Machines(tmp_path / "machines", DOWNLOADERS))
    made = DOWNLOAD.make(Work(config, 0, {"filter": filtered(store, urls, rows_a_part=500)}, draft, context))
    assert made.counts == Counts(input=len(urls), kept=len(urls)), "our own pace drops no row"
    assert made.facts.shards > DOWNLOADERS / 2

    assert max(web.most.values()) <= CONNECTIONS
    times = defaultdict(list)
    for at, host, _ in web.requests:
        times[host].append(at)
    for host, found in times.items():
        for first, start in enumerate(found):  # requests reach a busy server late, and then close together
            inside = sum(start <= at < start + 3 for at in found[first:])
            assert inside <= (RATE if host != "slow.org" else 2) * 3 * 1.15 + CONNECTIONS, host
    asked = Counter((host, path) for _, host, path in web.requests)
    redirected = {"h1.com", "cdn.net"}
    repeated = {key: number for key, number in asked.items() if number > 1 and key[0] not in redirected}
    assert repeated.keys() <= {key for key in asked if key[0] == "tired.org"}, "files of hosts move with them"
    assert all(number <= 2 for (host, _), number in asked.items() if host in redirected)
    refused_at = web.refused_until["tired.org"] - 3
    during = [at for at in times["tired.org"] if refused_at + 0.1 < at < refused_at + 2.9]
    assert len(during) < CONNECTIONS, "one answer of 429 stops all but those under way, which a busy server reads late"
