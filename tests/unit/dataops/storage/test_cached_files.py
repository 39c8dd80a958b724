"""What a process holds is not deleted, until the process ends."""

import fcntl
import os
import subprocess
import sys
import threading
import time

from dataops.home import CHECKOUT
from dataops.storage.cached_files import (
    SESSIONS,
    delete_unheld,
    find_abandoned,
    is_held,
    make_held,
)

DAY = 86_400.0


def put(home, *names, days=40):
    for name in names:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for path in home.rglob("*"):
        used = time.time() - days * DAY
        os.utime(path, (used, used))


def test_held_folder_is_neither_found_nor_deleted_until_its_process_ends(tmp_path):
    put(tmp_path, "models/a/model.json", "models/b/model.json", f"{SESSIONS}/a/x", f"{SESSIONS}/b/x")
    folders = [tmp_path / "models" / "a", tmp_path / SESSIONS / "a"]
    code = "import sys, pathlib, dataops.storage.cached_files as c\n"
    code += "print(*[c.hold(pathlib.Path(p)) for p in sys.argv[1:]], flush=True)\nsys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, folders), str(tmp_path / "missing")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    with holder, holder.stdout:
        assert holder.stdout.readline().split() == ["True", "True", "False"]
        os.utime(folders[0], (0, 0))
        assert [is_held(tmp_path / "models" / name) for name in "ab"] == [True, False]
        assert find_abandoned(tmp_path) == [tmp_path / SESSIONS / "b"]
        assert [delete_unheld(folder) for folder in folders] == [False, False]
        holder.kill()
    assert find_abandoned(tmp_path) == [tmp_path / SESSIONS / name for name in "ab"]
    assert not is_held(folders[0])
    assert [delete_unheld(folder) for folder in folders] == [True, True]
    assert [folder.exists() for folder in folders] == [False, False]


def test_folder_is_made_again_when_it_is_deleted_before_it_is_held(tmp_path):
    put(tmp_path, "models/a/model.json")
    folder = tmp_path / "models" / "a"
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as gc, which deletes it now
    waiting = threading.Thread(target=make_held, args=(folder,))
    waiting.start()
    (folder / "model.json").unlink()
    folder.rmdir()
    os.close(descriptor)
    waiting.join(10)
    assert not waiting.is_alive()
    assert folder.is_dir()
    assert is_held(folder)
