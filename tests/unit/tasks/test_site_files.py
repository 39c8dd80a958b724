import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tasks import site_files
from tasks.site_files import SiteFile, SiteFiles
from tasks.wire import FetchError


class Files(SiteFiles):
    """Answers without a network."""

    def __init__(self, folder: Path, status: int = 200):
        super().__init__(wire=None, folder=folder, timeout=1.0)  # type: ignore[arg-type]
        self.status, self.asked = status, []

    def _ask(self, first: str) -> SiteFile:
        self.asked.append(first)
        time.sleep(0.02)
        if self.status == 0:
            raise ConnectionRefusedError(111, "Connection refused")
        return SiteFile(first, self.status, "text", time.time())


def test_all_threads_and_all_that_share_the_folder_ask_once(tmp_path: Path) -> None:
    everyone, answers = [Files(tmp_path) for _ in range(3)], []

    def work(files: Files) -> None:
        answers.extend(files.get(f"http://{host}.test", "/robots.txt").text for host in "ab")

    threads = [threading.Thread(target=work, args=(everyone[n % 3],)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["text"] * 24
    asked = [url for files in everyone for url in files.asked]
    assert sorted(asked) == ["http://a.test/robots.txt", "http://b.test/robots.txt"]


def test_an_answer_is_kept_for_a_day_whatever_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path, status=503)
    for _ in range(3):
        assert files.get("http://a.test", "/robots.txt").status == 503
    assert len(files.asked) == 1
    monkeypatch.setattr(site_files, "EXPIRY", 0.0)
    files.get("http://a.test", "/robots.txt")
    assert len(files.asked) == 2


def test_no_answer_is_not_kept_and_is_told_to_the_pace(tmp_path: Path) -> None:
    files, told = Files(tmp_path, status=0), []

    class Turn:
        def __enter__(self) -> None:
            pass

        def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
            told.append(error.reason)

    for _ in range(2):
        with pytest.raises(FetchError, match="connect: Connection refused"):
            files.get("http://a.test", "/robots.txt", Turn)
    assert told == ["connect", "connect"]
    assert len(files.asked) == 2
