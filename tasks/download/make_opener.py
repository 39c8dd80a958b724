"""Builds the opener of a shard from the config of the download."""

from collections.abc import Sequence
from pathlib import Path

from tasks.download.config import DownloadConfig
from tasks.download.fetch.host_pace import HostPace, PaceLimits
from tasks.download.fetch.host_rules import HostRules, RuleLimits
from tasks.download.fetch.opener import FetchLimits, SafeOpener
from tasks.download.hooks import ShardHook
from tasks.web.address_policy import AddressResolver, parse_connect_to, shared_dns
from tasks.web.host_state import OriginFiles, Pauses
from tasks.web.request import HttpClient
from tasks.web.signing import open_signer


def make_opener(
    config: DownloadConfig, site_files: Path, workers: int = 1, round_: int = 0, hooks: Sequence[ShardHook] = ()
) -> SafeOpener:
    """Build the opener of one shard.

    Args:
        site_files: folder of robots.txt and similar files, which the processes of a run share.
        workers: number of processes that share the limits for a host.
        round_: round of the download (see OriginFiles).
        hooks: what plugins do with the images.

    Raises: ConfigError if the requests cannot be signed on this machine.
    """
    addresses = AddressResolver(parse_connect_to(config.connect_to), shared_dns())
    sign = open_signer(config, is_worker=True)
    client = HttpClient(addresses, config.user_agent_header, contact=config.contact is not None, sign=sign)
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
    limits = FetchLimits(
        timeout=config.timeout,
        max_bytes=config.max_bytes,
        agents=config.agents,
        opt_out=frozenset(config.opt_out),
    )
    return SafeOpener(limits, client, rules, pace, hooks)
