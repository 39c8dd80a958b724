"""Compare CLIP's vocabulary with open_clip's SimpleTokenizer and instant-clip-tokenizer: equal ids, and speed.

    python -m benchmarks.tokenizer [--quick] [--json] [--captions 100000]

Speed is captions per second of CPU time on one core, for captions of web length, 1,000 at a time; in turn, medians. The
compiled code is loaded before. The limit encodes the captions as UTF-8. instant-clip-tokenizer (Rust; wheels for Python
3.11 and 3.12) cleans no caption.
"""

import os
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core; open_clip sets it too
os.environ.setdefault("OMP_NUM_THREADS", "1")

from torch.nn.functional import pad

from benchmarks.measure import Row, copy_speed, finish, make_parser, peer_imports, time_in_turn
from tests.caption_samples import make_hostile_captions, make_web_captions
from training.model import clip_vocabulary
from training.model.tokenizer import ClipTokenizer

with peer_imports():
    from instant_clip_tokenizer import Tokenizer as InstantTokenizer
    from open_clip.tokenizer import SimpleTokenizer

BATCH = 1000
SEED = 17


def main():
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--captions", type=int, default=100_000, help="number of hostile captions")
    options = parser.parse_args()
    count, times = (5_000, 5) if options.quick else (options.captions, 5)
    encoder = clip_vocabulary.build_encoder(clip_vocabulary.find_merges())
    ours, peer, instant = ClipTokenizer(encoder, 77, compile_after=0), SimpleTokenizer(), InstantTokenizer()
    different = []
    fuzz = make_hostile_captions(count, SEED)
    lines = make_web_captions(20_000, SEED)
    batches = [lines[start : start + BATCH] for start in range(0, len(lines), BATCH)]
    for texts in [fuzz[start : start + BATCH] for start in range(0, count, BATCH)] + batches:
        ids = ours(texts)
        unequal = (pad(ids, (0, 77 - ids.shape[1])) != peer(texts)).any(dim=1)
        different += [texts[row] for row in unequal.nonzero()[:, 0].tolist()]
    rows, limit = [], copy_speed(lines)
    for name, encode, goal in (
        ("open_clip", peer, 1.0),
        ("instant-clip-tokenizer", lambda texts: instant.tokenize_batch(texts, context_length=77), 0.9),
    ):
        seconds, peer_seconds, _, peer_ids = time_in_turn(
            lambda: [ours(batch) for batch in batches],
            lambda encode=encode: [encode(batch) for batch in batches],
            times,
            time.process_time,
        )
        speeds = len(lines) / seconds, len(lines) / peer_seconds
        rows.append(Row("clip vocabulary", *speeds, name, "captions/s a core", goal, limit))
    instant_differs = sum(
        int((peer(texts).numpy() != ids).any(axis=1).sum()) for texts, ids in zip(batches, peer_ids, strict=True)
    )
    details = {
        "fuzz": {"captions": count, "different": len(different), "examples": [ascii(t) for t in different[:5]]},
        "web captions to which instant-clip-tokenizer gives other ids": instant_differs,
    }
    packages = ("tokenizers", "open_clip_torch", "regex", "ftfy", "numba", "instant-clip-tokenizer")
    return finish("tokenizer", rows, packages, equal=not different, as_json=options.json, details=details)


if __name__ == "__main__":
    raise SystemExit(main())
