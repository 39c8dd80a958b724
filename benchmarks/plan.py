"""Estimate the cost of a corpus: cores, hours, bytes, requests, database rows, money, and the scarcest resource.

    python -m benchmarks.plan [--pairs 128e6,1.28e9,12.8e9] [--dataset 400e6] [--cores 512] [--json] [--write]

The costs of a row are read from the results in benchmarks/results/ (of benchmarks/scale.py, extract.py,
download.py and curate_pack.py). Requests and tasks are counted as the code makes them. A simulation assigns the tasks
of each map to the cores, as the driver does. All other values are prices and rates in `Prices`, which is printed with
the result.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import make_parser
from flows.planning.costs import COSTS, Costs
from plugins.corpus_plan.corpus import Prices, plan_stages
from plugins.corpus_plan.pack_requests import PackCosts

VIT_B_32_FLOPS = 14.78e9
"""FLOPs of a forward pass of ViT-B-32 per sample. Source: open_clip, model_profile.csv."""
RESULTS = Path(__file__).resolve().parent / "results"


def read_latest(name: str) -> dict[str, Any]:
    """Return the newest result of a benchmark in benchmarks/results/."""
    found = sorted(RESULTS.glob(f"{name}-2*.json"))
    if not found:
        sys.exit(f"{RESULTS} has no {name}-DATE.json: run python -m benchmarks.{name} and keep what it prints there")
    return json.loads(found[-1].read_text())


def read_costs() -> Costs:
    """Return the costs, from the difference of two sizes, so that the start of processes is excluded."""
    scale, extract, download = read_latest("scale"), read_latest("extract"), read_latest("download")
    runs: dict[str, list[dict[str, Any]]] = {}
    for cost in scale["stages"]:
        if cost["engine"] == "local1":
            runs.setdefault(cost["stage"], []).append(cost)

    def slope(stage: str, field: str, engine: str = "local1") -> float:
        found = [cost for cost in scale["stages"] if (cost["stage"], cost["engine"]) == (stage, engine)]
        few, many = min(found, key=lambda c: c["rows"]), max(found, key=lambda c: c["rows"])
        return max((many[field] - few[field]) / (many["rows"] - few["rows"]), 0.0)

    cases = {row["case"]: row["ours"] for row in extract["rows"]}
    pairs_of_byte = cases["wat pairs, links"] / (cases["wat pairs"] * 1e6)
    trained = {row["case"]: row["ours"] for row in read_latest("train")["rows"]}
    counts = json.loads(max(runs["filter"], key=lambda c: c["rows"])["counts"])
    parts = {row["case"]: row["ours"] for row in scale["rows"] if row["case"].startswith("parts ")}
    return Costs(
        extract=1 / (cases["wat whole stage"] * 1e6 * pairs_of_byte),
        filter=slope("filter", "cpu_seconds"),
        download=(download["machine"]["cores"])
        / max(row["ours"] for row in download["rows"] if row["unit"] == "images/s"),
        curate=slope("curate", "cpu_seconds"),
        pack=asdict(PackCosts.from_runs(read_latest("pack_requests")["runs"])),
        filter_kept=counts["kept"] / counts["input"],
        pairs_of_archive_byte=pairs_of_byte,
        stored={stage: slope(stage, "stored_bytes") for stage in runs},
        part=1 / parts.get("parts ray", max(parts.values())),
        train_flops=3 * VIT_B_32_FLOPS * trained["ViT-B-32"],
        kept={"filter": counts["kept"] / counts["input"], "download": Prices().fetched, "curate": Prices().curated},
        cpu_of_row={stage: slope(stage, "cpu_seconds", "local2") for stage in runs},
        train_cores=2,
    )


def summarise(pairs: float, p: Prices, c: Costs) -> dict[str, Any]:
    """Return the cost of a whole corpus."""
    stages = plan_stages(pairs, p, c)
    dataset = pairs * c.filter_kept * p.fetched * p.curated
    samples = dataset * p.samples_of_pair
    gpu_hours = samples * p.sample_flops / p.gpu_flops / 3600
    steps = samples / 32_768
    cores = sum(stage.core_hours for stage in stages)
    money = {
        "cores": cores * p.core_hour,
        "requests": sum(s.reads * p.get_million + s.writes * p.put_million for s in stages) / 1e6,
        "a month of storage": sum(stage.stored for stage in stages) / 1e9 * p.gigabyte_month,
        "training": gpu_hours * p.gpu_hour,
    }
    return {
        "pairs": pairs,
        "dataset": dataset,
        "stages": [asdict(stage) for stage in stages],
        "core_hours": cores,
        "wall_hours": sum(stage.wall_hours for stage in stages),
        "gpu_hours": gpu_hours,
        "prefect_task_runs": 8,
        "prefect_task_runs_if_one_a_part": sum(stage.parts for stage in stages),
        "mlflow_rows": 60 + steps / 50 * 15,
        "records_in_driver_bytes": 3000 * max(stage.parts for stage in stages),
        "dollars": money,
    }


def format_table(found: dict[str, Any]) -> str:
    """Format the cost of a corpus as Markdown."""
    lines = [
        f"### {found['pairs']:,.0f} candidates, {found['dataset']:,.0f} pairs in the dataset",
        "",
        "| stage | rows | parts | core hours | wall hours | idle | reads | writes | moved | stored | scarce |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for s in found["stages"]:
        lines.append(
            f"| {s['stage']} | {s['rows']:,.0f} | {s['parts']:,} | {s['core_hours']:,.1f} | {s['wall_hours']:,.2f} "
            f"| {s['waiting']:.0%} | {s['reads']:,.0f} | {s['writes']:,.0f} | {s['moved'] / 1e12:,.2f} TB "
            f"| {s['stored'] / 1e12:,.2f} TB | {s['scarce']} |"
        )
    money = ", ".join(f"{name} ${value:,.0f}" for name, value in found["dollars"].items())
    lines += [
        "",
        f"{found['core_hours']:,.0f} core hours, {found['wall_hours']:,.1f} h; {found['gpu_hours']:,.0f} GPU hours. "
        f"{money}. Prefect: {found['prefect_task_runs']} task runs (one per task would be "
        f"{found['prefect_task_runs_if_one_a_part']:,}). MLflow: {found['mlflow_rows']:,.0f} rows.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Print the plan."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--pairs", default="128e6,1.28e9,12.8e9", help="numbers of candidate pairs")
    parser.add_argument("--dataset", type=float, default=400e6, help="size of a further dataset, in pairs")
    parser.add_argument("--cores", type=int, default=Prices.cores)
    parser.add_argument("--write", action="store_true", help=f"write the costs to {COSTS.name} of the package")
    options = parser.parse_args()
    if options.write:
        COSTS.write_text(json.dumps(asdict(read_costs()), indent=1) + "\n", encoding="utf-8")
    prices, costs = replace(Prices(), cores=options.cores), read_costs()
    kept = costs.filter_kept * prices.fetched * prices.curated
    sizes = [*map(float, options.pairs.split(",")), options.dataset / kept]
    found = [summarise(pairs, prices, costs) for pairs in sizes]
    if options.json:
        sys.stdout.write(json.dumps({"prices": asdict(prices), "costs": asdict(costs), "plans": found}) + "\n")
    else:
        sys.stdout.write("\n".join([*map(format_table, found), json.dumps({**asdict(prices), **asdict(costs)}), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
