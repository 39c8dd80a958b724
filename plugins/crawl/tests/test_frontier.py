"""The frontier of a crawl: order, limits, and the state after a kill."""

from contextlib import suppress

from plugins.crawl.frontier import Budget, Frontier

LARGE_BUDGET = Budget(pages=100, pages_per_host=100, waiting=100)


def allow_all(host):
    return True


def take_all(frontier, **options):
    """Take URLs until none is left."""
    urls = []
    while queued := frontier.take_next(options.get("may_request", allow_all), options.get("per_host", 10)):
        urls.append(queued.url)
    return urls


def test_take_next_alternates_hosts_and_returns_shallow_urls_first(tmp_path):
    frontier = Frontier(tmp_path / "f.sqlite", LARGE_BUDGET)
    for url, depth in (("a/1", 2), ("a/2", 1), ("a/3", 1), ("b/1", 5), ("c/1", 0), ("c/2", 0)):
        assert frontier.add(url, url[0], depth)
    assert not frontier.add("a/1", "a", 0)
    assert take_all(frontier, may_request=lambda host: host != "c") == ["a/2", "b/1", "a/3", "a/1"]
    assert take_all(frontier, per_host=1) == ["c/1"]
    assert take_all(frontier) == ["c/2"]
    assert not frontier.has_next()
    assert frontier.in_flight.total() == 6
    frontier.close()


def test_budget_counts_requests_in_flight_but_not_refused_ones(tmp_path):
    frontier = Frontier(tmp_path / "f.sqlite", Budget(pages=3, pages_per_host=2, waiting=5))
    for url in ("a/1", "a/2", "a/3", "b/1", "b/2"):
        frontier.add(url, url[0], 0)
    assert not frontier.add("b/3", "b", 0)
    first = frontier.take_next(allow_all, 10)
    assert first.url == "a/1"
    assert take_all(frontier) == ["b/1", "a/2"]
    assert not frontier.has_next()
    frontier.record_outcome(first, "robots_denied", requested=False)
    assert take_all(frontier) == ["b/2"]
    frontier.close_waiting()
    assert frontier.summarise()["outcomes"] == {"page_budget": 4, "robots_denied": 1}
    assert frontier.summarise()["links_not_followed"] == {"frontier_full": 1}
    frontier.close()


def test_frontier_keeps_outcomes_and_requeues_requests_in_flight_after_a_kill(tmp_path):
    frontier = Frontier(tmp_path / "f.sqlite", LARGE_BUDGET)
    for url in ("a/1", "a/2", "a/3"):
        frontier.add(url, "a", 0)
    completed, failed = frontier.take_next(allow_all, 10), frontier.take_next(allow_all, 10)
    with frontier.transaction():
        frontier.record_outcome(completed, "archived", offset=10, length=5)
        frontier.add("a/4", "a", 1)
    frontier.requeue(failed)
    with suppress(KeyboardInterrupt), frontier.transaction():
        frontier.add("a/5", "a", 1)
        raise KeyboardInterrupt
    reopened = Frontier(tmp_path / "f.sqlite", LARGE_BUDGET)  # as after a kill: the first was never closed
    assert reopened.archive_end() == 15
    assert reopened.describe() == "1 URL requested, 1 page stored, 3 URLs waiting"
    queued = reopened.take_next(allow_all, 10)
    assert (queued.url, queued.tries) == ("a/2", 1)
    assert take_all(reopened) == ["a/3", "a/4"]
    reopened.add_robots("a/robots.txt", 15, 7)
    assert reopened.archive_end() == 22
    frontier.close()
    reopened.close()
