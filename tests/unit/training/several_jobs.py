"""Under torchrun, trains several jobs one after the other: `... -m tests.unit.training.several_jobs PORT=JOB.json ...`.

An import of torch costs more than a small training. From the second job on the ranks meet at a port of their own, as if
torchrun had started anew.
"""

import os
import sys

from training.train import main

codes = []
for number, argument in enumerate(sys.argv[1:]):
    port, _, job = argument.partition("=")
    if number:
        os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"}
    codes.append(main([job]))
sys.exit(max(codes))
