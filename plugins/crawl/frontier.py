"""The frontier: every URL of a crawl with its outcome, in an SQLite file that survives a killed process.

Scrapy's own job directory is consistent only after an orderly end. Here each response is one transaction, which is
committed after the page is in the archive. So a killed crawl resumes, and only repeats requests that were in flight.
"""

import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataops.formatting import format_quantity

# The names of tables and columns must not change: crawls that were killed before an update resume with their old file.
_SCHEMA = """
create table if not exists address (
    id integer primary key, url text not null unique, host text not null, depth integer not null, referrer text,
    redirects integer not null default 0, tries integer not null default 0, taken integer not null default 0,
    outcome text, detail text, http_status integer, bytes integer, sha256 text, fetched_at text, server_address text,
    offset integer, length integer);
create index if not exists waiting on address (host, depth, id) where outcome is null and taken = 0;
create table if not exists robots (url text not null, offset integer not null, length integer not null);
create table if not exists link_count (reason text primary key, n integer not null);
"""


@dataclass(frozen=True)
class QueuedUrl:
    """A URL that is requested next or in flight."""

    id: int
    url: str
    host: str
    depth: int
    redirects: int
    tries: int


@dataclass(frozen=True)
class Budget:
    """The limits of a crawl.

    Attributes:
        pages: maximum number of URLs that are requested, whatever the response.
        pages_per_host: maximum number of URLs that are requested from one host.
        waiting: maximum number of URLs that wait at a time; further links are only counted.
    """

    pages: int
    pages_per_host: int
    waiting: int


class Frontier:
    """A queue of URLs: hosts take turns, and each host's URLs come in the order of their depth."""

    def __init__(self, path: Path, budget: Budget):
        self.budget = budget
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript("pragma journal_mode = wal; pragma synchronous = normal;" + _SCHEMA)
        self._db.execute("update address set taken = 0 where outcome is null")
        self._waiting: OrderedDict[str, int] = OrderedDict(self._by_host("outcome is null"))
        self._waiting_in_all = sum(self._waiting.values())
        # Requests that count for the budget: completed ones, of earlier processes too, and those in flight.
        self._spent = Counter[str](dict(self._by_host("outcome is not null and tries > 0")))
        self._spent_in_all = self._spent.total()
        self._archived = sum(dict(self._by_host("outcome = 'archived'")).values())
        self.in_flight = Counter[str]()

    def _by_host(self, condition: str) -> sqlite3.Cursor:
        return self._db.execute(f"select host, count(*) from address where {condition} group by host")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the body as one transaction, which is rolled back if the body raises."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # SQLite itself rolls back at a full disk
                self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def add(self, url: str, host: str, depth: int, referrer: str | None = None, redirects: int = 0) -> bool:
        """Add a URL. Return False if it is already there, or if too many URLs wait."""
        if self._waiting_in_all >= self.budget.waiting:
            self.count("frontier_full")
            return False
        values = (url, host, depth, referrer, redirects)
        new = self._db.execute(
            "insert or ignore into address (url, host, depth, referrer, redirects) values (?, ?, ?, ?, ?)", values
        ).rowcount
        if new:
            self._wait(host)
        return bool(new)

    def _wait(self, host: str) -> None:
        self._waiting[host] = self._waiting.get(host, 0) + 1
        self._waiting_in_all += 1

    def count(self, reason: str, n: int = 1) -> None:
        """Count links that are not followed."""
        statement = "insert into link_count values (?, ?) on conflict (reason) do update set n = n + excluded.n"
        self._db.execute(statement, (reason, n))

    def has_next(self) -> bool:
        """Return whether a URL waits that is within the budget."""
        return self._spent_in_all < self.budget.pages and any(map(self._is_in_budget, self._waiting))

    def take_next(self, may_request: Callable[[str], bool], per_host: int) -> QueuedUrl | None:
        """Return the next URL of the host that has waited longest, or None.

        Args:
            may_request: called with a host; whether it may be requested now.
            per_host: maximum number of URLs of one host in flight.
        """
        if self._spent_in_all >= self.budget.pages:
            return None
        for host in self._waiting:
            if self.in_flight[host] < per_host and self._is_in_budget(host) and may_request(host):
                return self._take(host)
        return None

    def _is_in_budget(self, host: str) -> bool:
        return self._spent[host] < self.budget.pages_per_host

    def _take(self, host: str) -> QueuedUrl:
        statement = (
            "select id, url, host, depth, redirects, tries from address "
            "where outcome is null and taken = 0 and host = ? order by depth, id limit 1"
        )
        address = QueuedUrl(*self._db.execute(statement, (host,)).fetchone())
        self._db.execute("update address set taken = 1 where id = ?", (address.id,))
        self._waiting[host] -= 1
        self._waiting_in_all -= 1
        if self._waiting[host]:
            self._waiting.move_to_end(host)
        else:
            del self._waiting[host]
        self.in_flight[host] += 1
        self._spend(host, 1)
        return address

    def _spend(self, host: str, n: int) -> None:
        self._spent[host] += n
        self._spent_in_all += n

    def requeue(self, address: QueuedUrl) -> None:
        """Put a URL back after a failed attempt."""
        self._db.execute("update address set taken = 0, tries = tries + 1 where id = ?", (address.id,))
        self.in_flight[address.host] -= 1
        self._spend(address.host, -1)
        self._wait(address.host)

    def record_outcome(self, address: QueuedUrl, outcome: str, *, requested: bool = True, **evidence: Any) -> None:
        """Record the outcome of a URL.

        Args:
            outcome: `archived`, or the reason why the page was not archived.
            requested: whether a request was sent.
            evidence: values of further columns.
        """
        columns = {"outcome": outcome, "tries": address.tries + (1 if requested else 0), **evidence}
        assigned = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"update address set {assigned} where id = ?", (*columns.values(), address.id))
        self.in_flight[address.host] -= 1
        self._archived += outcome == "archived"
        if not requested:
            self._spend(address.host, -1)

    def describe(self) -> str:
        """Return how far the crawl is, in one line."""
        requested, waiting = (format_quantity(n, "URL") for n in (self._spent_in_all, self._waiting_in_all))
        return f"{requested} requested, {format_quantity(self._archived, 'page')} stored, {waiting} waiting"

    def close_waiting(self) -> None:
        """Record the outcome `page_budget` for all URLs that still wait."""
        self._db.execute("update address set outcome = 'page_budget' where outcome is null")

    def archive_end(self) -> int:
        """Return the end of the last recorded page or robots.txt in the archive, in bytes."""
        ends = "select offset + length as stop from address union all select offset + length from robots"
        return self._db.execute(f"select coalesce(max(stop), 0) from ({ends})").fetchone()[0]

    def add_robots(self, url: str, offset: int, length: int) -> None:
        """Record the position of a robots.txt in the archive."""
        self._db.execute("insert into robots values (?, ?, ?)", (url, offset, length))

    def list_robots(self) -> list[dict[str, Any]]:
        """Return the position of each robots.txt in the archive, in the order of URLs."""
        found = self._db.execute("select url, offset, length from robots order by url, offset")
        return [{"url": url, "offset": offset, "length": length} for url, offset, length in found]

    def iterate_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of all URLs in the order of URLs, those with a page in the archive first."""
        cursor = self._db.execute("select * from address order by outcome <> 'archived', url")
        names = [column[0] for column in cursor.description]
        return (dict(zip(names, row, strict=True)) for row in cursor)

    def summarise(self) -> dict[str, Any]:
        """Return the counts of the crawl: URLs by outcome and by status, links not followed, bytes, depth, hosts."""

        def count_by_name(statement: str) -> dict[str, int]:
            return {str(name): n for name, n in self._db.execute(statement)}

        asked, hosts, depth, size = self._db.execute(
            "select count(*), count(distinct host), coalesce(max(depth), 0), coalesce(sum(bytes), 0) from address "
            "where tries > 0"
        ).fetchone()
        return {
            "asked": asked,
            "hosts": hosts,
            "depth": depth,
            "bytes": size,
            "outcomes": count_by_name("select outcome, count(*) from address group by 1 order by 1"),
            "http_status": count_by_name(
                "select http_status, count(*) from address where http_status is not null group by 1 order by 1"
            ),
            "links_not_followed": count_by_name("select reason, n from link_count order by 1"),
        }
