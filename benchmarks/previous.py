"""The code of an earlier release reads a store of today's code, as docs/operate/versions.md says.

    python -m benchmarks.previous [--commit TAG]

Today's code makes a small project (tests/stored_project.py). The earlier code, by default that of the newest tag, or of the
commit that stored the first project, is checked out and installed in an environment of its own. Its commands then list,
show, trace and collect that store, and it runs the same config again. Each answer must be right, or the one sentence
that names the release that reads a newer format; afterwards today's code must find everything as it was. Run it before a
release: the installation takes a minute, and all else another one.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from dataops.snapshot import find_manifest
from dataops.store import FolderStore
from tasks.engine.scratch_folders import scratch_folder
from tasks.growth.versions import find_packs, list_newest
from tests.growing import NIGHTS
from tests.stored_project import load_keys, make_project

ROOT = Path(__file__).parents[1]
AGAIN = """
import json, sys
from pathlib import Path
from dataops.store import FolderStore
from tasks.growth.versions import find_packs, list_newest
from tests.growing import ANSWERS, run
from tests.servers.hostile_web import served
from tests.stored_project import whole
folder = Path(sys.argv[1])
store = FolderStore(folder / "store")
packs = [pack.key for version in list_newest(store) for pack in find_packs(store, version)]
with served(ANSWERS) as web:
    _, manifests = run(whole(web, folder), folder / "home")
    asked = sum(path[1:2].isdigit() for _, _, path in web.log)
print(json.dumps({"packs": packs, "asked": asked}))
"""
"""Read the newest version, and run the project's config again, by whichever code is installed."""


def find_commit():
    """Return the newest tag of a release before this commit, or the commit that stored the first project."""
    tags = _git("tag", "--merged", "HEAD", "--sort=-version:refname", "--list", "v*").split()
    here = _git("rev-parse", "HEAD").strip()
    earlier = [tag for tag in tags if _git("rev-list", "-n1", tag).strip() != here]
    stored = _git("log", "--diff-filter=A", "--format=%H", "--", "tests/data/stored/project-*.tar.xz").split()
    return (earlier or stored[-1:])[0]


def _git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


class Earlier:
    """The earlier code, in its environment, with a project."""

    def __init__(self, checkout, project):
        self._checkout, self._project = checkout, project
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        self._environment = kept | {
            "PAIRMILL_HOME": str(project / "earlier-home"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db",
        }

    def run(self, *command):
        """Run a program of its environment in its checkout."""
        program = self._checkout / ".venv" / "bin" / command[0]
        return subprocess.run(
            [program, *command[1:]], cwd=self._checkout, env=self._environment, capture_output=True, text=True
        )

    def ask(self, name, is_right, *command):
        """Run a command that answers with JSON; print the outcome, and return whether it is right or refused by format."""
        done = self.run(*command)
        try:
            outcome = "right" if is_right(json.loads(done.stdout.strip().splitlines()[-1])) else "WRONG"
        except (ValueError, LookupError, TypeError):
            outcome = "WRONG"
        if done.returncode and "reads formats up to" in done.stderr + done.stdout:
            outcome = "refused, which names the release that reads it"
        _say(f"{name}: {outcome}")
        if outcome == "WRONG":
            _say(f"  exit code {done.returncode}: {done.stdout[-1500:]} {done.stderr[-1500:]}")
        return outcome != "WRONG"


def _say(line):
    print(line, flush=True)  # noqa: T201


def compare(earlier, project):
    """Return whether each answer of the earlier code about a project is as it must be."""
    store, keys = FolderStore(project / "store"), load_keys(project)
    [newest] = list_newest(store)
    packs, uri = [pack.key for pack in find_packs(store, newest)], ("--store", store.uri, "--json")
    (record,) = [path.stem for path in (project / "store" / "runs").glob("whole-*.json")]

    def names_none(deleted):
        names = json.dumps([store["snapshots"] for store in deleted["stores"]])
        return not any(key in names for key in (*packs, *keys.values()))

    def is_shown(run):
        return {one["stage"]: one["key"] for one in run["stages"]} == keys

    return [
        earlier.ask("runs", lambda runs: record in {one["run_id"] for one in runs}, "pairmill", "runs", *uri),
        earlier.ask("show RUN", is_shown, "pairmill", "show", record, *uri),
        earlier.ask("show KEY", lambda one: one["key"] == packs[0], "pairmill", "show", packs[0], *uri),
        earlier.ask("trace URL", lambda one: packs[0] in json.dumps(one), "pairmill", "trace", NIGHTS[0][4][0], *uri),
        earlier.ask("gc", names_none, "pairmill", "gc", *uri),
        earlier.ask("gc --yes", names_none, "pairmill", "gc", "--yes", *uri),
        earlier.ask(
            "the version, and the same config again without a request",
            lambda one: one == {"packs": packs, "asked": 0},
            *("python", "-c", AGAIN, str(project)),
        ),
    ]  # fmt: skip


def is_whole(project, before):
    """Return whether today's code finds each object that it had made as it was."""
    store = FolderStore(project / "store")
    [newest] = list_newest(store)
    found = [find_manifest(store, stage, key, verify=True) for stage, key in load_keys(project).items()]
    same = all(store.find(name) == data for name, data in before.items())
    _say(f"today's code afterwards: {'all as it was' if same and all(found) else 'SOMETHING CHANGED'}")
    return same and all(found) and len(find_packs(store, newest)) == 2


def main(arguments=None):
    """Run the comparison and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", help="tag or commit of the earlier code")
    commit = parser.parse_args(arguments).commit or find_commit()
    with scratch_folder("previous") as scratch:
        checkout, project = scratch / "earlier", scratch / "project"
        _git("worktree", "add", "--detach", str(checkout), commit)
        try:
            _say(f"earlier code: {_git('log', '-1', '--format=%h %ad %s', '--date=short', commit).strip()}")
            subprocess.run(["make", ".venv/installed-dev"], cwd=checkout, check=True, stdout=sys.stderr)
            make_project(project)
            store = FolderStore(project / "store")
            before = {name: store.read(name) for name in store.names("") if not name.startswith("runs/")}
            answers = compare(Earlier(checkout, project), project)
            return 0 if all([*answers, is_whole(project, before)]) else 1
        finally:
            _git("worktree", "remove", "--force", str(checkout))


if __name__ == "__main__":
    raise SystemExit(main())
