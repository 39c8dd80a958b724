"""Runs pip for the Makefile and shows what it does in one line: `python infra/install.py PIP_ARGUMENTS`.

It uses only the standard library, because nothing is installed yet. On a terminal the line is rewritten; elsewhere a
line is printed when pip begins another phase, and one a minute. pip's own errors and warnings are printed as they are.
"""

import re
import shutil
import subprocess
import sys
import threading
import time

REFRESH_SECONDS, LINE_SECONDS = 1.0, 60.0
_SIZE = re.compile(r"\(([0-9.]+) ([kMG]?B)\)")
_UNITS = {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}
_TROUBLE = ("ERROR", "WARNING", "error:")


class InstallProgress:
    """What pip's output lines say about an install."""

    def __init__(self) -> None:
        self.phase, self.packages, self.megabytes = "reading the package index", 0, 0.0
        self.began = time.monotonic()

    def read(self, line: str) -> None:
        """Update the state with one line of pip's output."""
        words = line.split()
        if line.startswith("Collecting ") or line.startswith("Obtaining "):
            self.packages += 1
            self.phase = f"resolving {words[1]}"
        elif line.strip().startswith("Downloading ") and (size := _SIZE.search(line)):
            self.megabytes += float(size[1]) * _UNITS[size[2]]
            self.phase = f"downloading {words[1].rpartition('/')[2].split('-')[0]} ({size[1]} {size[2]})"
        elif line.startswith("Installing collected packages"):
            self.phase = f"unpacking {line.count(',') + 1} packages"

    def __str__(self) -> str:
        seconds = time.monotonic() - self.began
        return f"{seconds:4.0f} s, {self.packages} packages, {self.megabytes:,.0f} MB downloaded: {self.phase}"


def run(command: list[str]) -> int:
    """Run pip, show its progress on standard error, and return its exit code."""
    progress, ended = InstallProgress(), threading.Event()
    shown = threading.Thread(target=_show, args=(progress, ended))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout is not None
        shown.start()
        output: list[str] = []
        try:
            for line in pip.stdout:
                progress.read(line)
                output.append(line)
            code = pip.wait()
        finally:
            ended.set()
            shown.join()
    lines = output[-30:] if code else [line for line in output if line.startswith(_TROUBLE)]
    sys.stderr.write("".join(lines))
    if not code:
        progress.phase = "done"
        sys.stderr.write(f"{progress}\n")
    return code


def _show(progress: InstallProgress, ended: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    last, printed = "", 0.0
    while not ended.wait(REFRESH_SECONDS):
        if terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r{str(progress)[:width]:<{width}}")
        elif (phase := progress.phase.split()[0]) != last or time.monotonic() - printed > LINE_SECONDS:
            last, printed = phase, time.monotonic()
            sys.stderr.write(f"{progress}\n")
        sys.stderr.flush()
    if terminal:
        sys.stderr.write(f"\r{'':<{shutil.get_terminal_size().columns - 1}}\r")


if __name__ == "__main__":
    try:
        sys.exit(run([sys.executable, "-m", "pip", "install", *sys.argv[1:]]))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same make command again: it continues\n")
        sys.exit(130)
