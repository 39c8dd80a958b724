"""HTTP for the whole project: requests, IP address policy, DNS and per-host state."""
