"""CLIP's vocabulary against open_clip's SimpleTokenizer: the same ids on captions that nobody should write, and speed.

    python -m benchmarks.tokenizer [--quick] [--json] [--captions 100000]

Speed is captions a second of processor time, on captions of web length, 1,000 at a time, one core; in turn, medians.
"""

import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core; open_clip sets it so, too
os.environ.setdefault("OMP_NUM_THREADS", "1")

from open_clip.tokenizer import SimpleTokenizer
from torch.nn.functional import pad

from benchmarks.inputs.captions import captions, web_captions
from benchmarks.measure import Row, arguments, finish, in_turn
from training.model.tokenizer import make_tokenizer

AT_ONCE = 1000
SEED = 17


def main() -> int:
    """Run the benchmark."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--captions", type=int, default=100_000, help="of the fuzz")
    options = parser.parse_args()
    count, times = (5_000, 1) if options.quick else (options.captions, 5)
    ours, peer = make_tokenizer("clip", [], 0, 77), SimpleTokenizer()
    different: list[str] = []
    fuzz = captions(count, SEED)
    for start in range(0, count, AT_ONCE):
        texts = fuzz[start : start + AT_ONCE]
        ids = ours(texts)
        unlike = (pad(ids, (0, 77 - ids.shape[1])) != peer(texts)).any(dim=1)
        different += [texts[row] for row in unlike.nonzero()[:, 0].tolist()]
    lines = web_captions(5_000 if options.quick else 20_000, SEED)
    batches = [lines[start : start + AT_ONCE] for start in range(0, len(lines), AT_ONCE)]
    seconds, peer_seconds, _, _ = in_turn(
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
