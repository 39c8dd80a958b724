"""`pairmill runs` and `pairmill show`: which runs are listed, and how much of a large snapshot is printed."""

from dataops.snapshot import Input, Part
from dataops.store import FolderStore
from flows.commands.show import LISTED, show_snapshot
from tests.manifests import build_manifest


def test_show_of_many_inputs_and_parts_fits_on_one_screen(tmp_path, capsys):
    inputs = [Input(stage="source", key=f"crawl/{n:05}.warc.gz", digest="0" * 64) for n in range(1500)]
    parts = [Part(name=f"part-{n:05}.parquet", rows=1, bytes=1, sha256="0" * 64) for n in range(1500)]
    show_snapshot(build_manifest("extract", inputs=inputs, parts=parts), FolderStore(tmp_path), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 2 * LISTED + 20
    assert sum("made from source/crawl/" in line for line in lines) == LISTED
    assert any("and 1,480 more inputs: `pairmill show " in line for line in lines)
    assert any("and 1,480 more parts: `pairmill show " in line for line in lines)
