"""Builds the opener of a shard from the config of the download."""

from pathlib import Path

from tasks.download.config import DownloadConfig
from tasks.download.fetch.host_pace import HostPace, PaceLimits
from tasks.download.fetch.host_rules import HostRules, RuleLimits
from tasks.download.fetch.opener import FetchLimits, SafeOpener
from tasks.download.fetch.originals import Originals
from tasks.web.address_policy import AddressResolver, parse_connect_to, shared_dns
from tasks.web.host_state import OriginFiles, Pauses
from tasks.web.request import HttpClient


def make_opener(config: DownloadConfig, site_files: Path, workers: int = 1, round_: int = 0) -> SafeOpener:
    """Build the opener of one shard.

    Args:
        site_files: folder of robots.txt and similar files, which the processes of a run share.
        workers: number of processes that share the limits for a host.
        round_: round of the download (see OriginFiles).

    Raises: ConfigError if the key file of `[download.identity]` cannot be used on this machine.
    """
    addresses = AddressResolver(parse_connect_to(config.connect_to), shared_dns())
    signer = config.identity.signer(is_worker=True) if config.identity else None
    client = HttpClient(addresses, config.user_agent_header, contact=config.contact is not None, signer=signer)
    pace = HostPace(
        PaceLimits(
            concurrency=config.concurrency(workers),
            interval=1 / config.host_rate if config.host_rate else 0.0,
            processes=workers,
            max_pause=config.timeout,
            patience=config.host_patience,
        ),
        Pauses(site_files),
    )
    rules = HostRules(
        OriginFiles(client, site_files, config.timeout, round_),
        pace,
        RuleLimits(
            agents=config.agents,
            opt_out=frozenset(config.opt_out),
            max_crawl_delay=config.max_crawl_delay,
        ),
    )
    originals = None
    if config.originals:
        originals = Originals(Path(config.originals))
        originals.claim()  # in each process: on a cluster, each machine may have a folder of its own
    return SafeOpener(make_limits(config), client, rules, pace, originals)


def make_limits(config: DownloadConfig) -> FetchLimits:
    """Return the limits of one request."""
    return FetchLimits(
        timeout=config.timeout,
        max_bytes=config.max_bytes,
        agents=config.agents,
        opt_out=frozenset(config.opt_out),
    )
