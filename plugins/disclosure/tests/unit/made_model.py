"""A trained model in a store, whose manifests and rows are made of a few pairs."""

import pyarrow as pa

from dataops.schema import CURATED, conform, uid
from dataops.snapshot import Counts, Draft
from tasks.download.outcome import EVIDENCE
from tests.manifests import build_manifest

STAGES = ("extract", "filter", "download", "curate", "pack", "train")
CONFIGS = {
    "extract": {"kind": "warc", "opt_out_directives": ["noai"]},
    "filter": {"opt_out": ["rsl"], "dedupe": ["uid", "url"], "personal": "mask"},
    "download": {
        "user_agent": "testbot", "image_size": 48, "resize_mode": "border", "encode_format": "jpg",
        "opt_out": ["tdmrep", "iptc"], "max_crawl_delay": 7.0,
    },
    "curate": {"scores": []},
    "train": {"model": "ViT-B-32"},
}  # fmt: skip
WEIGHTS = [
    {"tower": "image", "name": "net", "version": "1", "license": "cc-by-nc-4.0", "file": "n.pt", "sha256": "ab" * 32}
]


def pair(number, host, size, **more):
    """Return a pair whose image of `size` bytes is on a host."""
    url, caption = f"https://{host}/{number}.jpg", f"caption {number}"
    return {
        "uid": uid(url, caption), "key": uid(url, caption), "url": url, "caption": caption,
        "page_url": f"https://page.{host}/{number}.html", "extracted_with": "pairmill-warc/3", "bytes": size,
        "fetched_at": f"2026-0{1 + number % 3}-02T00:00:00+00:00", "content_type": "image/png; x=y", **more,
    }  # fmt: skip


def make_model(
    store,
    pairs,
    configs=None,
    counted=None,
    taken_down=(),
    size=4,
    name="a",
):
    """Write the snapshots from extract to train, with raw shards of `size` pairs, and return their manifests.

    Args:
        configs: changes of the configs, by stage.
        counted: changes of the facts, by stage.
        taken_down: uids that pack dropped.
        name: distinguishes the keys of models in one store.
    """
    packed = [row for row in pairs if row["uid"] not in taken_down]
    counts_of_pack = {
        "samples": len(packed), "languages": {"en": len(packed)}, "lengths": {"1": len(packed)},
        "caption_sources": {"alt": len(packed)}, "licenses": {"": len(packed)},
    }  # fmt: skip
    own = {"pack": counts_of_pack, "train": {"weights": WEIGHTS}}
    dropped = {"download": {"opt_out": 3, "http_404": 2}, "pack": {"takedown": len(taken_down)} if taken_down else {}}
    manifests = {}
    for number, stage in enumerate(STAGES):
        draft = Draft(store, stage, f"{name}{number:015d}")
        kept = packed if stage in ("pack", "train") else pairs
        lost = dropped.get(stage, {})
        manifests[stage] = draft.commit(
            build_manifest(
                stage,
                _put_parts(draft, kept, size),
                key=draft.key,
                inputs=_list_inputs(manifests),
                config=CONFIGS.get(stage, {}) | dict((configs or {}).get(stage, {})),
                counts=Counts(input=len(kept) + sum(lost.values()), kept=len(kept), dropped=lost),
                facts={**own.get(stage, {}), **(counted or {}).get(stage, {})},
                content_digest=f"{number:064x}",
            )
        )
    return manifests


def _list_inputs(manifests):
    last = list(manifests.values())[-1:]
    sources = [manifests["curate"], manifests["download"]] if last and last[0].stage == "curate" else last
    return [one.as_input() for one in sources]


def _put_parts(draft, rows, size):
    schema = {"curate": CURATED, "pack": CURATED, "download": EVIDENCE}.get(draft.stage)
    if schema is None:
        return []
    prefix = "evidence" if draft.stage == "download" else "part"
    parts = []
    for start in range(0, len(rows), size):
        columns = [
            {key: value for key, value in row.items() if key in schema.names} for row in rows[start : start + size]
        ]
        table = conform(pa.Table.from_pylist(columns, schema), schema, draft.stage)
        parts.append(draft.put_table(f"{prefix}-{start // size:05d}.parquet", table))
    return parts
