"""The `pairmill` command. Parses, calls, prints; the work is elsewhere.

Exit codes: 0 done; 2 config or usage; 3 data contract broken; 4 training diverged; 5 gate refused the model;
75 retryable (network, storage, pre-emption); 1 anything else.
"""

import json as json_
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from dataops.errors import PairmillError
from dataops.escaping import visible
from dataops.secrets import guard_process
from infra import doctor as diagnosis
from infra import services

StageName = Literal["extract", "filter", "download", "curate", "pack", "train", "evaluate", "register"]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object and nothing else on stdout.")]
Several = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")]
StoreUri = Annotated[str | None, Parameter(name="--store", help="Another store to look in.")]

# Read when prefect is first imported, which no module at the top of this file does.
LOGGING = {
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FORMAT": "%(asctime)s %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s %(message)s",
}

app = App(
    name="pairmill",
    help="Mill web archives into a registered CLIP model: crawl, filter, train, evaluate, register.",
    version=lambda: version("pairmill"),
    version_flags=["--version"],
)

queries = App(name="queries", help="Lists of what captions may speak of, for filter.balance.")
app.command(queries)
datasets = App(name="datasets", help="Evaluation sets that suites name.")
app.command(datasets)


@app.command
def demo(*, json: Json = False) -> int:
    """The whole path on real data, with no network: from a small web to a registered model."""
    from flows.demo import run_demo

    return run_demo(as_json=json)


@app.command
def run(
    config: Path,
    *,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", help="Override a key: --set train.epochs=3.")] = (),
    until: Annotated[StageName | None, Parameter(help="Stop after this stage.")] = None,
    force: Annotated[tuple[StageName, ...], Parameter(help="Make this stage's snapshot again.")] = (),
    verify: Annotated[bool, Parameter(negative="", help="Compare the sha256 of every reused part.")] = False,
    json: Json = False,
) -> int:
    """Run a config file: make what is missing, reuse what is there.

    Args:
        config: TOML file.
    """
    from flows.config import load_config
    from flows.execute import execute
    from flows.runs import new_run

    home = services.make_home()  # before a store may be made in it
    record = new_run(load_config(config, set_, until), home)
    return execute(record.run_id, until=until, force=force, verify=verify, as_json=json)


@app.command
def rerun(
    run_id: str,
    *,
    from_: Annotated[StageName | None, Parameter(name="--from", help="Make this stage and all after it again.")] = None,
    retry: Annotated[
        str | None,
        Parameter(help="With --from download: fetch again only the rows that failed so, as in timeout,http_5xx."),
    ] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Continue a failed, crashed or killed run with its own config.

    Args:
        run_id: as `pairmill runs` lists it.
    """
    from flows.execute import rerun as continue_run

    return continue_run(run_id, from_stage=from_, retry=retry, store_uri=store, as_json=json)


@app.command
def runs(*, store: StoreUri = None, json: Json = False) -> int:
    """List all runs of the known stores, oldest first."""
    from flows.report import show_runs
    from flows.runs import list_runs

    return show_runs(list_runs(services.home(), store), as_json=json)


@app.command
def show(
    run_or_key: str,
    *,
    page: Annotated[
        Path | None, Parameter(help="Also write the page of a dataset, a download or a filter, HTML, to this file.")
    ] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Show one run, or one snapshot by its key.

    Args:
        run_or_key: a run id, or the 16 hex digits of a snapshot's key.
    """
    from flows.report import show_run_or_key
    from flows.stage_page import write_stage_page

    if page is not None:
        write_stage_page(run_or_key, services.home(), store, page)
    return show_run_or_key(run_or_key, services.home(), store, as_json=json)


@app.command
def trace(
    what: str,
    *,
    limit: Annotated[int, Parameter(help="Pairs that are told in full.")] = 20,
    index: Annotated[bool, Parameter(negative="--no-index", help="Make the indexes that are missing.")] = True,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Tell where a pair came from and which models saw it, or what a model was made of.

    Args:
        what: a uid, address, domain, image file, model version (models:/name/3, name@alias), or snapshot's key.
    """
    from flows.trace import trace as tell

    return tell(what, services.home(), store, limit=limit, index=index, as_json=json)


@app.command
def takedown(
    file: Path,
    *,
    reason: Annotated[str, Parameter(help="Written down with the request.")] = "",
    delete_raw: Annotated[
        bool,
        Parameter(negative="", help="Also delete the pictures from raw shards and from the dataset versions before."),
    ] = False,
    yes: Annotated[bool, Parameter(name="--yes", negative="", help="With --delete-raw: do not ask.")] = False,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Take pairs out of every dataset, name and tag the models that saw them, and prove that nothing is left.

    Args:
        file: addresses, domains, uids, sha256, phash:HEX, image:PATH, one a line; or CSV (kind, value), or TOML.
    """
    from flows.takedown import Order
    from flows.takedown import takedown as take_down

    return take_down(Order(file, reason, delete_raw, yes), services.home(), store, as_json=json)


@app.command
def promote(
    model: str,
    *,
    alias: str = "champion",
    reason: Annotated[str, Parameter(help="Written into the audit trail.")] = "",
    json: Json = False,
) -> int:
    """Give a version of a model an alias, also back to an earlier one; with no version, print the audit trail.

    Args:
        model: models:/name/3, or name/3; a name alone for the trail.
    """
    from flows.promote import promote as move

    return move(model, alias, reason, as_json=json)


@app.command
def diff(
    a: str,
    b: str,
    *,
    rows: Annotated[
        Path | None, Parameter(help="Also write each added and removed pair and why to this file: .parquet or .csv.")
    ] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Say what one dataset has that another has not, and why.

    Args:
        a: the key of a dataset (of the stage pack), or a run that made or reused one.
        b: another; `added` is what B has and A has not.
    """
    from flows.diff import show_diff

    return show_diff(a, b, services.home(), store, rows, as_json=json)


@app.command
def export(
    model: str,
    *,
    format: Annotated[Literal["open_clip", "hf", "onnx"], Parameter(help="Whose form; hf is transformers'.")],
    out: Annotated[Path, Parameter(help="A folder that is empty or not there yet.")],
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Write a trained model in the form of others' tools.

    Args:
        model: a folder of a finished model, the key of a train snapshot, or models:/name/version.
    """
    from flows.export import export as write_export

    return write_export(model, format, out, services.home(), store, as_json=json)


@queries.command
def build(
    *,
    out: Path,
    text: Several = (),
    titles: Several = (),
    project: Several = (),
    lemmas: Several = (),
    wordfreq: Several = (),
    wordfreq_top: int = 20_000,
    min_unigram: int = 100,
    min_bigram: int = 100,
    min_pmi: float = 6.0,
    min_views: int = 70,
    min_chars: int = 2,
    json: Json = False,
) -> int:
    """Build a list of queries: frequent words, telling pairs of words, popular titles, lemmas.

    Files may be named by folders and globs too, and be packed as .gz, .bz2 or .zst.

    Args:
        out: the Parquet file to write.
        text: lines, or Wikipedia's page dumps in XML.
        titles: lines `title<TAB>views`, or Wikimedia's page views.
        project: of Wikimedia's page views, the projects that count: en, en.m, en.wikipedia. None: all.
        lemmas: lines, or WordNet's index files.
        wordfreq: languages of which the package wordfreq gives the most frequent words.
        wordfreq_top: how many of them.
        min_unigram: occurrences of a word in the text.
        min_bigram: occurrences of a pair of words.
        min_pmi: its pointwise mutual information, in bits.
        min_views: views of a title.
        min_chars: characters of a query. 1 is for languages in which one character is a word.
    """
    from dataops.query_building import Thresholds
    from flows.report import show_queries
    from tasks.queries import Given, build_queries, write_queries

    given = Given(text, titles, project, lemmas, wordfreq, wordfreq_top)
    at = Thresholds(min_unigram, min_bigram, min_pmi, min_views, min_chars)
    found = build_queries(given, at)
    write_queries(found, out, given, at)
    return show_queries(found, out, as_json=json)


@app.command(name="eval")
def eval_(
    model: str,
    *,
    suite: Path,
    against: Annotated[str | None, Parameter(help="Another model: better, worse or not distinguishable?")] = None,
    data: Annotated[
        Path | None, Parameter(help="Folder of the sets; default: where `datasets fetch` puts them.")
    ] = None,
    matches: Annotated[
        Path | None, Parameter(help="Table of test images that are in training (uid, set, member).")
    ] = None,
    page: Annotated[Path | None, Parameter(help="Write the page with pictures to this file.")] = None,
    batch_size: Annotated[int, Parameter(help="Images at once.")] = 256,
    device: Annotated[str, Parameter(help="A torch device: cpu, cuda, cuda:1.")] = "cpu",
    precision: Annotated[Literal["fp32", "bf16"], Parameter(help="Of the weights.")] = "fp32",
    json: Json = False,
) -> int:
    """Evaluate any model on a suite, without a pipeline.

    Args:
        model: a folder (ours or open_clip's), OpenAI's .pt file, or a registered model: NAME/VERSION, NAME@ALIAS.
        suite: TOML file, as configs/suites/datacomp.toml.
    """
    from flows.evaluation import Order, evaluate
    from tasks.evaluate_model import Settings

    settings = Settings(batch_size, device, precision)
    return evaluate(Order(model, suite, against, data, matches, page, settings), as_json=json)


@datasets.command
def fetch(
    suite: Path,
    *,
    data: Annotated[Path | None, Parameter(help="Folder for the sets; default: .pairmill/datasets.")] = None,
    json: Json = False,
) -> int:
    """Bring a suite's sets from the Hub, whole and checked; say which cannot be had.

    Args:
        suite: TOML file, as configs/suites/datacomp.toml.
    """
    from flows.evaluation import fetch as bring

    return bring(suite, data, as_json=json)


@app.command
def gc(
    *,
    keep_runs: Annotated[int | None, Parameter(help="Keep the newest N runs of each name (default: 10).")] = None,
    older_than: Annotated[str | None, Parameter(help="Instead: keep the runs younger than, say, 30d.")] = None,
    store: StoreUri = None,
    yes: Annotated[bool, Parameter(name="--yes", negative="", help="Delete; without it, only say what.")] = False,
    json: Json = False,
) -> int:
    """Delete the snapshots that no kept run and no registered model needs, and what killed processes left."""
    from flows.gc import Policy, collect_garbage

    policy = Policy.of(keep_runs, older_than)
    return collect_garbage(services.home(), store, policy, delete=yes, as_json=json)


@app.command
def deploy(
    config: Path,
    *,
    cron: Annotated[str | None, Parameter(help="When: '0 3 * * *' is 3:00 each night. None: by hand only.")] = None,
    timezone: Annotated[str, Parameter(help="Of the cron line.")] = "Etc/UTC",
    until: Annotated[
        Literal["pack", "register"],
        Parameter(
            help="register: all in one flow run. pack: the dataset; training and evaluation then start by trigger."
        ),
    ] = "register",
    overlap: Annotated[
        Literal["skip", "queue"], Parameter(help="What becomes of a schedule that fires while the last run still goes.")
    ] = "skip",
    notify: Annotated[
        tuple[str, ...], Parameter(help="Notification block, type/name, for failures and new champions.")
    ] = (),
    gpus: Annotated[int, Parameter(help="Trainings at a time, over all machines.")] = 1,
    pool: Annotated[str, Parameter(help="Work pool; training runs in POOL-gpu.")] = "pairmill",
    remove: Annotated[bool, Parameter(negative="", help="Delete what was deployed for this config.")] = False,
    json: Json = False,
) -> int:
    """Make schedule, triggers, limits and notifications of a config stand in Prefect, or bring them up to date.

    Args:
        config: TOML file; relative paths in it count from the present folder, also for the scheduled runs.
    """
    from flows.deploy import Order, workers
    from flows.deploy import deploy as make_stand
    from flows.deploy import remove as delete
    from flows.report import show_deployed, show_removed

    if remove:
        return show_removed(delete(config), as_json=json)
    order = Order(config, cron, timezone, until, overlap, notify, gpus, pool)
    return show_deployed(make_stand(order), workers(order), as_json=json)


@app.command
def up(
    *,
    worker: Annotated[bool, Parameter(negative="", help="Also keep workers here, which run what is deployed.")] = False,
    pool: Annotated[str, Parameter(help="With --worker: their work pool; training runs in POOL-gpu.")] = "pairmill",
    gpus: Annotated[int, Parameter(help="With --worker: trainings at a time here; 0 for none.")] = 1,
    json: Json = False,
) -> int:
    """Start the local Prefect and MLflow servers."""
    from flows.report import show_services
    from infra.worker import start_workers

    running = services.up()
    return show_services(running + (start_workers(pool, gpus) if worker else []), as_json=json)


@app.command
def down(*, json: Json = False) -> int:
    """Stop the servers that `up` or `demo` started."""
    from flows.report import show_services

    return show_services(services.down(), as_json=json)


@app.command
def status(*, json: Json = False) -> int:
    """Say which servers run, and where."""
    from flows.report import show_services

    return show_services(services.status(), as_json=json)


@app.command
def doctor(*, store: StoreUri = None, json: Json = False) -> int:
    """Say what is missing or wrong with this installation, and the exact remedy. Exits 2 where something is."""
    from flows.report import show_checks

    return show_checks(diagnosis.diagnose(store), as_json=json)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run one command and exit with its code."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def run_command(arguments: list[str]) -> int:
    """The exit code of one command line. Deliberate errors become one message on standard error."""
    for name, value in LOGGING.items():
        os.environ.setdefault(name, value)
    services.apply_environment()
    guard_process()
    try:
        if arguments[:1] != ["doctor"]:
            diagnosis.refuse_on_clash()
        result: Any = app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return 2
    except PairmillError as error:
        sys.stderr.write(visible(f"pairmill: {error}\n"))
        if "--json" in arguments:
            failure = {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
            sys.stdout.write(json_.dumps({"error": failure}) + "\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("pairmill: interrupted; `pairmill runs` names the run, `pairmill rerun RUN_ID` continues it\n")
        return 130
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
