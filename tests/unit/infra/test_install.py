"""The installer of the Makefile: one line about what pip does, and pip's own errors."""

import sys

from infra.install import InstallProgress, run

OUTPUT = (
    "Obtaining file:///src/pairmill",
    "  Preparing editable metadata (pyproject.toml): started",
    "Collecting polars>=1.30 (from pairmill==0.1)",
    "  Using cached polars-1.42.1-py3-none-any.whl (0.8 MB)",
    "Collecting torch<3,>=2.6 (from pairmill==0.1)",
    "  Downloading https://index.example/torch-2.13.0-cp311-linux_x86_64.whl (1.5 GB)",
    "  Downloading xxhash-3.6.0-cp311.whl (194 kB)",
)


def test_progress_counts_packages_and_downloaded_bytes():
    progress = InstallProgress()
    shown: list[str] = []
    for line in OUTPUT:
        progress.read(line + "\n")
        shown.append(progress.phase)
    assert (progress.packages, round(progress.megabytes, 1)) == (3, 1500.2)
    assert shown[-2] == "downloading torch (1.5 GB)"
    progress.read("Installing collected packages: polars, torch, xxhash, pairmill\n")
    assert str(progress).endswith("3 packages, 1,500 MB downloaded: unpacking 4 packages")


def test_a_failed_install_prints_the_end_of_pips_output_and_keeps_its_exit_code(capfd):
    code = "import sys; print('Collecting nothing-like-this'); print('ERROR: no matching distribution'); sys.exit(3)"
    assert run([sys.executable, "-c", code]) == 3
    assert "ERROR: no matching distribution" in capfd.readouterr().err


def test_a_finished_install_prints_one_line_without_control_codes(capfd):
    code = "print('Collecting a'); print('  Downloading a-1.0.whl (2.0 MB)'); print('WARNING: a script is not on PATH')"
    assert run([sys.executable, "-c", code]) == 0
    warning, summary = capfd.readouterr().err.splitlines()
    assert warning == "WARNING: a script is not on PATH"
    assert summary.endswith("s, 1 packages, 2 MB downloaded: done")
    assert "\r" not in summary
