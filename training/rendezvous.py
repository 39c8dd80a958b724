"""Where the ranks of a job meet: in a file of the job's folder, or at an address. Imports no torch.

A store of torch's has no login, and torchrun unpickles what it reads there: whoever reaches it runs
code. Ranks of one machine therefore meet in a file, and an address must be one of loopback unless
the config allows a network.
"""

import ipaddress

MEETING_FILE = "PAIRMILL_MEETING_FILE"
"""Environment variable with the file in which the ranks of one machine meet."""
LAUNCHER_PID = "PAIRMILL_LAUNCHER_PID"
"""Environment variable with the pid of the launcher of a rank, which ends with it."""
GUARDED = "PAIRMILL_GUARDED_RENDEZVOUS"
"""Environment variable of a rank whose torchrun (training/torchrun.py) checked the rendezvous."""


def is_loopback(host: str) -> bool:
    """Return whether a host is localhost or an address that only this machine reaches; other names are not resolved."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def explain_refusal(address: str) -> str:
    """Return why ranks must not meet at an address, and what to do."""
    return (
        f"{address}: the store in which ranks meet has no login, and whoever reaches it runs code on each machine; let "
        "several machines meet in a network of their own and set train.allow_network = true (docs/operate/scale.md)"
    )
