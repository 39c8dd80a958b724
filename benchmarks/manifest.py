"""What the manifest of a snapshot of 1,000,000 parts takes: as a table beside a small JSON object, and as one JSON object.

    python -m benchmarks.manifest [--quick] [--json]

Each row is CPU seconds, or the peak memory of a process that does this alone: to write the manifest, to open it, to read
the parts whose names begin with a prefix, the homes of parts, and all parts. The peer is the form of up to 10,000 parts.
The outputs are equal if both forms give the same parts.
"""

import time

from benchmarks.measure import Row, finish, make_parser, run_in_process
from dataops.parts import MANY_PARTS, Part
from dataops.snapshot import MANIFEST, Draft, load_manifest
from dataops.store import open_store
from tasks.engine.scratch_folders import scratch_folder
from tests.manifests import build_manifest

KEY, FORMS = "0" * 16, ("table", "json")
READS = {
    "open": lambda manifest: len(manifest.counts.dropped),
    "a name": lambda manifest: [part.sha256 for part in manifest.named("part-0000017")],
    "homes": lambda manifest: len(manifest.homes),
    "all parts": lambda manifest: sum(part.rows * number for number, part in enumerate(manifest.parts)),
}


def write(uri, number, form):
    """Write the manifest, and return the CPU seconds."""
    stems = (f"{n:07d}.tar" if n < number // 2 else f"part-{n - number // 2:07d}.parquet" for n in range(number))
    parts = [
        Part(name=one, rows=n % 99, bytes=n, sha256=f"{n:064x}", uid_sum=f"{n:032x}") for n, one in enumerate(stems)
    ]
    manifest, draft = build_manifest("pack", parts), Draft(open_store(uri), "pack", KEY)
    started = time.process_time()
    if form == "table":
        draft.commit(manifest)
    else:
        draft.store.put(draft.path(MANIFEST), manifest.encode())
    return time.process_time() - started


def read(uri, what):
    """Return the CPU seconds of opening the manifest and reading a part of it, and what was read."""
    started = time.process_time()
    manifest = load_manifest(open_store(uri), "pack", KEY)
    found = READS[what](manifest)
    return time.process_time() - started, found


def main():
    """Run the benchmark and return its exit code."""
    arguments = make_parser(__doc__).parse_args()
    number, rows, equal = MANY_PARTS * 2 if arguments.quick else 1_000_000, [], True
    with scratch_folder("manifest") as scratch:
        uris = [str(scratch / form) for form in FORMS]
        ours, peer = (run_in_process(write, str(scratch / form), number, form)[0] for form in FORMS)
        rows.append(Row("write", ours, peer, "one JSON object", "CPU s"))
        ours, peer = (sum(path.stat().st_size for path in (scratch / form).rglob("*.*")) for form in FORMS)
        rows.append(Row("stored", ours, peer, "one JSON object", "bytes"))
        for what in READS:
            (ours, memory), (peer, peer_memory) = (run_in_process(read, uri, what) for uri in uris)
            rows.append(Row(what, ours[0], peer[0], "one JSON object", "CPU s"))
            rows.append(Row(f"{what}, memory", memory.peak, peer_memory.peak, "one JSON object", "bytes"))
            equal &= ours[1] == peer[1]
    return finish("manifest", rows, ["pyarrow", "pydantic"], equal=equal, as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
