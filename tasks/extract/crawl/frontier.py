"""The frontier: every address of a crawl, and what became of it, in an SQLite file that outlives a killed process.

Scrapy's own job directory is whole only after an orderly end. Here what an answer changes is one transaction, made after
the page lies in the archive: a crawl that is killed at any time goes on where it was, and asks again only for what was on
its way.
"""

import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """One that is to be asked for."""

    id: int
    url: str
    host: str
    depth: int
    redirects: int
    tries: int


@dataclass(frozen=True)
class Budget:
    """How far a crawl may go.

    Attributes:
        pages: addresses that are asked for, whatever they answer.
        pages_per_host: likewise, of one host.
        known: addresses that wait at a time; more links are counted and forgotten.
    """

    pages: int
    pages_per_host: int
    known: int


class Frontier:
    """Addresses by host, the shallow ones first; hosts take turns."""

    def __init__(self, path: Path, budget: Budget):
        self.budget = budget
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript("pragma journal_mode = wal; pragma synchronous = normal;" + _SCHEMA)
        self._db.execute("update address set taken = 0 where outcome is null")
        self._waiting: OrderedDict[str, int] = OrderedDict(self._by_host("outcome is null"))
        self._waiting_in_all = sum(self._waiting.values())
        # Asked for, in this process or before, or on its way: what the budget is for.
        self._spent = Counter[str](dict(self._by_host("outcome is not null and tries > 0")))
        self._spent_in_all = self._spent.total()
        self.on_their_way = Counter[str]()

    def _by_host(self, condition: str) -> sqlite3.Cursor:
        return self._db.execute(f"select host, count(*) from address where {condition} group by host")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is done within it is kept."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def add(self, url: str, host: str, depth: int, referrer: str | None = None, redirects: int = 0) -> bool:
        """Note an address to ask for. False where it was known."""
        if self._waiting_in_all >= self.budget.known:
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
        """Count links that are not followed and not kept."""
        statement = "insert into link_count values (?, ?) on conflict (reason) do update set n = n + excluded.n"
        self._db.execute(statement, (reason, n))

    def has_waiting(self) -> bool:
        """Whether there is more to ask for, within the budget."""
        return self._spent_in_all < self.budget.pages and any(map(self._has_room, self._waiting))

    def take(self, may: Callable[[str], bool], per_host: int) -> QueuedUrl | None:
        """The next address, of the host that has waited longest among those that `may` be asked now.

        Args:
            may: called with a host.
            per_host: addresses of one host that may be on their way at a time.
        """
        if self._spent_in_all >= self.budget.pages:
            return None
        for host in self._waiting:
            if self.on_their_way[host] < per_host and self._has_room(host) and may(host):
                return self._take(host)
        return None

    def _has_room(self, host: str) -> bool:
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
        self.on_their_way[host] += 1
        self._spend(host, 1)
        return address

    def _spend(self, host: str, n: int) -> None:
        self._spent[host] += n
        self._spent_in_all += n

    def give_back(self, address: QueuedUrl) -> None:
        """Ask for it again later: this try failed."""
        self._db.execute("update address set taken = 0, tries = tries + 1 where id = ?", (address.id,))
        self.on_their_way[address.host] -= 1
        self._spend(address.host, -1)
        self._wait(address.host)

    def finish(self, address: QueuedUrl, outcome: str, *, asked: bool = True, **evidence: Any) -> None:
        """Note what became of an address.

        Args:
            outcome: `archived`, or why not.
            asked: whether its server was asked for it.
            evidence: further columns.
        """
        columns = {"outcome": outcome, "tries": address.tries + (1 if asked else 0), **evidence}
        assigned = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"update address set {assigned} where id = ?", (*columns.values(), address.id))
        self.on_their_way[address.host] -= 1
        if not asked:
            self._spend(address.host, -1)

    def end(self) -> None:
        """Give every address that was not asked for its outcome: beyond the budget."""
        self._db.execute("update address set outcome = 'page_budget' where outcome is null")

    def archive_end(self) -> int:
        """Bytes of the archive that are accounted for."""
        both = "select offset + length as stop from address union all select offset + length from robots"
        return self._db.execute(f"select coalesce(max(stop), 0) from ({both})").fetchone()[0]

    def add_robots(self, url: str, offset: int, length: int) -> None:
        """Note where a robots.txt lies in the archive."""
        self._db.execute("insert into robots values (?, ?, ?)", (url, offset, length))

    def robots(self) -> list[dict[str, Any]]:
        """Where each robots.txt lies in the archive, in the order of their urls."""
        found = self._db.execute("select url, offset, length from robots order by url, offset")
        return [{"url": url, "offset": offset, "length": length} for url, offset, length in found]

    def rows(self) -> Iterator[dict[str, Any]]:
        """All addresses, those with a page in the archive first, in the order of their urls."""
        cursor = self._db.execute("select * from address order by outcome <> 'archived', url")
        names = [column[0] for column in cursor.description]
        return (dict(zip(names, row, strict=True)) for row in cursor)

    def summary(self) -> dict[str, Any]:
        """The crawl in numbers: addresses by outcome and by status, links that were only counted, bytes, depth, hosts."""

        def numbers(statement: str) -> dict[str, int]:
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
            "outcomes": numbers("select outcome, count(*) from address group by 1 order by 1"),
            "http_status": numbers(
                "select http_status, count(*) from address where http_status is not null group by 1 order by 1"
            ),
            "links_not_followed": numbers("select reason, n from link_count order by 1"),
        }
