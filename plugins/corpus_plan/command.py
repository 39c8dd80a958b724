"""`pairmill plan-corpus`: estimate what millions to billions of pairs take on S3, before there is a run."""

from dataclasses import asdict, replace
from typing import Any

from dataops.errors import ConfigError
from flows.commands.options import Json
from flows.commands.output import console, print_json
from plugins.corpus_plan.corpus import Prices, plan_operations, plan_stages
from plugins.corpus_plan.costs import load_costs

MAX_PAIRS, MAX_CORES = 1e11, 1e6
"""Of a plan, which takes time in proportion to the number of partitions."""


def plan_corpus(*pairs: float, cores: int = Prices.cores, json: Json = False) -> int:
    """Estimate tasks, core hours, requests, bytes and dollars of a corpus on S3, stage by stage.

    Args:
        pairs: Numbers of candidate pairs in WAT files, such as 1.28e9.
        cores: Cores that work at the same time.
    """
    if not (pairs and all(1 <= number <= MAX_PAIRS for number in pairs)) or not 1 <= cores <= MAX_CORES:
        raise ConfigError("plan-corpus needs numbers of pairs from 1 to 1e11, such as 1.28e9, and 1 to 1e6 cores")
    prices = replace(Prices(), cores=cores)
    found = [_summarise(number, prices) for number in pairs]
    if json:
        print_json({"prices": asdict(prices), "costs": asdict(load_costs()), "plans": found})
    else:
        for one in found:
            console().write(_format_table(one))
    return 0


def _summarise(pairs: float, prices: Prices) -> dict[str, Any]:
    """Return the cost of a whole corpus."""
    costs = load_costs()
    stages = plan_stages(pairs, prices, costs)
    dataset = pairs * costs.filter_kept * prices.fetched * prices.curated
    gpu_hours = dataset * prices.samples_of_pair * prices.sample_flops / prices.gpu_flops / 3600
    cores = sum(stage.core_hours for stage in stages)
    return {
        "pairs": pairs,
        "dataset": dataset,
        "stages": [asdict(stage) for stage in stages],
        "operations": [asdict(one) for one in plan_operations(pairs, prices, costs)],
        "core_hours": cores,
        "wall_hours": sum(stage.wall_hours for stage in stages),
        "gpu_hours": gpu_hours,
        "dollars": {
            "cores": cores * prices.core_hour,
            "requests": sum(s.reads * prices.get_million + s.writes * prices.put_million for s in stages) / 1e6,
            "a month of storage": sum(stage.stored for stage in stages) / 1e9 * prices.gigabyte_month,
            "training": gpu_hours * prices.gpu_hour,
        },
    }


def _format_table(found: dict[str, Any]) -> str:
    """Format the cost of a corpus as Markdown."""
    lines = [
        f"### {found['pairs']:,.0f} candidates, {found['dataset']:,.0f} pairs in the dataset",
        "",
        "| stage | rows | parts | core hours | wall hours | idle | reads | writes | moved | stored | scarce |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for s in [*found["stages"], *found["operations"]]:
        lines.append(
            f"| {s['stage']} | {s['rows']:,.0f} | {s['parts']:,} | {s['core_hours']:,.1f} | {s['wall_hours']:,.2f} "
            f"| {s['waiting']:.0%} | {s['reads']:,.0f} | {s['writes']:,.0f} | {s['moved'] / 1e12:,.2f} TB "
            f"| {s['stored'] / 1e12:,.2f} TB | {s['scarce']} |"
        )
    money = ", ".join(f"{name} ${value:,.0f}" for name, value in found["dollars"].items())
    total = f"{found['core_hours']:,.0f} core hours, {found['wall_hours']:,.1f} h; {found['gpu_hours']:,.0f} GPU hours"
    return "\n".join([*lines, "", f"{total}. {money}.", ""])
