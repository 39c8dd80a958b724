"""Compare CLIP's vocabulary with open_clip's SimpleTokenizer: equal ids on hostile captions, and speed.

    python -m benchmarks.tokenizer [--quick] [--json] [--captions 100000]

Speed is captions per second of CPU time on one core, for captions of web length, 1,000 at a time; in turn, medians.
"""

import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core; open_clip sets it too
os.environ.setdefault("OMP_NUM_THREADS", "1")

from torch.nn.functional import pad

from benchmarks.measure import Row, finish, make_parser, peer_imports, time_in_turn
from tests.caption_samples import make_hostile_captions, make_web_captions
from training.model.tokenizer import make_tokenizer

with peer_imports():
    from open_clip.tokenizer import SimpleTokenizer

BATCH = 1000
SEED = 17


def main() -> int:
    """Run the benchmark."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--captions", type=int, default=100_000, help="number of hostile captions")
    options = parser.parse_args()
    count, times = (5_000, 1) if options.quick else (options.captions, 5)
    ours, peer = make_tokenizer("clip", [], 0, 77), SimpleTokenizer()
    different: list[str] = []
    fuzz = make_hostile_captions(count, SEED)
    for start in range(0, count, BATCH):
        texts = fuzz[start : start + BATCH]
        ids = ours(texts)
        unequal = (pad(ids, (0, 77 - ids.shape[1])) != peer(texts)).any(dim=1)
        different += [texts[row] for row in unequal.nonzero()[:, 0].tolist()]
    lines = make_web_captions(5_000 if options.quick else 20_000, SEED)
    batches = [lines[start : start + BATCH] for start in range(0, len(lines), BATCH)]
    seconds, peer_seconds, _, _ = time_in_turn(
        lambda: [ours(batch) for batch in batches], lambda: [peer(batch) for batch in batches], times, time.process_time
    )
    rows = [
        Row("clip vocabulary", len(lines) / seconds, len(lines) / peer_seconds, "open_clip", "captions/s a core", 1.0)
    ]
    details = {"fuzz": {"captions": count, "different": len(different), "examples": [ascii(t) for t in different[:5]]}}
    packages = ("tokenizers", "open_clip_torch", "regex", "ftfy")
    return finish("tokenizer", rows, packages, equal=not different, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
