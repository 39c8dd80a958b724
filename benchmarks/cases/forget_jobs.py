"""Train several jobs one after the other in the ranks of one launch: `... -m benchmarks.cases.forget_jobs JOB.json ...`.

An import of torch costs more than a small training. Each job's CPU time, of this rank, is written beside it. Checkpoints
are kept of the first training, which replays start from: those of 20 replays of the demo would fill a disk.
"""

import os
import shutil
import sys
import time
from pathlib import Path

from training.rendezvous import MEETING_FILE
from training.train import main

codes = []
meeting = os.environ.get(MEETING_FILE)
for number, job in enumerate(sys.argv[1:]):
    if meeting is not None:  # the ranks meet anew
        os.environ[MEETING_FILE] = f"{meeting}-{number}"
    began = time.process_time()
    codes.append(main([job]))
    rank = os.environ.get("RANK", "0")
    if not codes[-1]:
        Path(job).with_name(f"cpu-{rank}").write_text(str(time.process_time() - began))
    if Path(job).parent.name != "base":
        shutil.rmtree(Path(job).with_name("checkpoints"), ignore_errors=True)
sys.exit(max(codes))
