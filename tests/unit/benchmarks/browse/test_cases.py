from pathlib import Path

from benchmarks.browse.cases import measure
from benchmarks.browse.dataset import make_dataset


def test_browse_runs_over_a_small_dataset(tmp_path: Path) -> None:
    lines: list[str] = []
    manifest, store = make_dataset(tmp_path, 600, 16, lines.append, part_rows=200)
    result = measure(manifest, store, tmp_path / "home", 1, lines.append)
    assert result.equal
    assert {"open", "text query", "filter", "similar images", "map"} <= result.seconds.keys()
    assert make_dataset(tmp_path, 600, 16, lines.append)[0] == manifest
