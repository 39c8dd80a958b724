"""A stranger's distribution adds one of each thing, by one object in one file, and no file of the repository changes."""

import json
import os
import re
import subprocess
import sysconfig
import textwrap
import venv

import pytest

from dataops.home import CHECKOUT
from tests.servers.databases import put_database

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("register_plugins")]

EXAMPLES = re.findall(r"```python\n(.*?)```", (CHECKOUT / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL)
"""A rule, a source and a signal, as CONTRIBUTING.md adds them to the core."""
POINTS = """
[pairmill.rules]
hashtags = stranger.rule:HASHTAGS
[pairmill.signals]
keep-out = stranger.signal:KEEP_OUT
[pairmill.sources]
lines = stranger.source:LinesSource
[pairmill.steps]
brightness = stranger.step:BRIGHTNESS
[pairmill.executors]
here = stranger.executor:HERE
[pairmill.listeners]
notes = stranger.listener:Notes
[pairmill.losses]
halved = stranger.loss:HALVED
[pairmill.commands.look]
greet = stranger.command:greet
"""
MODULES = {
    "step": '''
        """Add the length of the caption as a column, and drop what is too short for this step."""
        import pyarrow as pa
        from dataops.config import StageConfig
        from dataops.schema import Column, DropReason
        from tasks.curate.step import Step

        class Config(StageConfig):
            """`[curate.brightness]`: a column from the caption."""

            least: int = 0
            """Minimum number."""

        BRIGHTNESS = Step(
            "brightness", Config, "stranger.step:run",
            columns=(Column("brightness", pa.int32(), "Number of letters of the caption."),),
            reasons={"dim": DropReason("The caption is dim.", "`curate.brightness.least`")},
        )

        def run(work, shards):
            import pyarrow.compute as pc
            from dataops.facts import Facts
            from tasks.curate.stage import put_result, read_kept
            from tasks.curate.step import StepOutput

            for shard in shards:
                rows = read_kept(work.draft, shard, "brightness")
                number = pc.utf8_length(rows["caption"]).cast(pa.int32())
                dim = pc.if_else(pc.less(number, work.config.brightness.least), "dim", pa.scalar(None, pa.string()))
                put_result(work.draft, shard, "brightness", pa.table({"brightness": number, "drop_reason": dim}))
            return StepOutput(facts=Facts(rows=sum(shard.size for shard in shards)))
    ''',
    "executor": '''
        """Run tasks in threads of this process."""
        from concurrent.futures import ThreadPoolExecutor
        from contextlib import contextmanager
        from pathlib import Path
        from tasks.engine.context import Engine, OpenWorkers

        class Here:
            shares_disk = True

            @contextmanager
            def open(self, workers, store):
                with ThreadPoolExecutor(1) as pool:
                    yield OpenWorkers(pool, 1)
                    Path("opened").touch()

        HERE = Engine(lambda execution: Here())
    ''',
    "listener": '''
        """Note how each stage ended."""
        import json
        from pathlib import Path
        from flows.listeners.base import RunListener

        class Notes(RunListener):
            def begin(self):
                self.ends = []

            def stage_ended(self, end):
                self.ends.append([end.stage, end.outcome])

            def ended(self, state, error):
                Path("noted.json").write_text(json.dumps(self.ends))
    ''',
    "loss": '''
        """Half of the core's loss."""
        from dataclasses import replace
        from training.losses.loss import Loss, SOFTMAX

        class _Halved(Loss):
            def __call__(self, outputs, step):
                outcome = SOFTMAX(outputs, step)
                return replace(outcome, loss=outcome.loss / 2)

        HALVED = _Halved()
    ''',
    "command": '''
        """The command `greet`."""

        def greet() -> int:
            """Greet whoever asks."""
            print("hello from a stranger")
            return 0
    ''',
}
"""The distribution: a module for each further thing."""


class Environment:
    """A virtual environment with what this one has, and the distribution."""

    def __init__(self, folder):
        venv.create(folder, symlinks=True)
        (site,) = folder.glob("lib/python*/site-packages")
        ours = sysconfig.get_path("purelib")
        (site / "ours.pth").write_text(
            f"import site, sys; sys.path.insert(0, {str(CHECKOUT)!r}); site.addsitedir({ours!r})\n"
        )
        metadata = site / "stranger-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(POINTS)
        (site / "stranger").mkdir()
        (site / "stranger" / "__init__.py").touch()
        for name, text in {**dict(zip(("rule", "source", "signal"), EXAMPLES, strict=True)), **MODULES}.items():
            (site / "stranger" / f"{name}.py").write_text(textwrap.dedent(text))
        self.python = folder / "bin" / "python"

    def run(self, folder, *arguments):
        """Run Python in a folder; return what it prints."""
        environment = os.environ | {"PAIRMILL_HOME": str(folder / "home")}
        command = [str(self.python), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def evaluate(self, folder, code):
        """Run code; return the JSON value that it prints last."""
        return json.loads(self.run(folder, "-c", textwrap.dedent(code)).splitlines()[-1])


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("stranger") / "venv")


CONFIG = """
    import json
    from pathlib import Path
    from dataops.snapshot import read_parts
    from dataops.store import FolderStore
    from flows.config import load_config
    from tasks.curate.stage import CURATE
    from tasks.engine.context import Context
    from tasks.engine.stage import make, plan
    from tasks.extract.stage import EXTRACT
    from tasks.filter.stage import FILTER

    config = load_config(Path("mine.toml"), until="filter")
    store = FolderStore(Path("store"))
    context = Context(store=store, home=Path("home"), executor=config.execution.executor())
    pairs = make(plan(EXTRACT, config.source, 0, []), context)
"""


def test_source_rule_executor_and_listener_serve_a_run(stranger, mlflow_url, tmp_path):
    (tmp_path / "pairs.txt").write_text(
        "https://a.example/1.jpg\ta red kite on a hill\nhttps://a.example/2.jpg\t#kite #green\n"
    )
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\n[source]\nkind = "lines"\npaths = ["pairs.txt"]\n[filter]\ndrop_hashtags = true\n'
        '[execution]\nengine = "here"\n'
    )
    command = ("-m", "flows.cli")
    put_database("prefect", tmp_path / "home" / "services" / "prefect")
    try:
        shown = json.loads(stranger.run(tmp_path, *command, "run", "mine.toml", "--until", "filter", "--json"))
    finally:
        stranger.run(tmp_path, *command, "down")
    extracted, kept = shown["stages"]
    assert extracted["counts"]["kept"] == 2
    assert kept["counts"]["dropped"] == {"hashtags": 1}
    assert json.loads((tmp_path / "noted.json").read_text()) == [["extract", "Completed"], ["filter", "Completed"]]
    assert (tmp_path / "opened").exists()


def test_key_of_a_rule_is_in_the_key_of_the_stage_only_where_it_is_set(stranger, tmp_path):
    code = """
    import json
    from tasks.filter.config import FilterConfig

    print(json.dumps([FilterConfig(drop_hashtags=True).key_config()["plugins"], FilterConfig().key_config()]))
    """
    used, plain = stranger.evaluate(tmp_path, code)
    assert used == {"hashtags": 1}
    assert not {"plugins", "drop_hashtags"} & {*plain}


def test_signal_of_a_page_drops_its_rows(stranger, tmp_path):
    code = (
        """
    import io, json
    from pathlib import Path
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    page = b'<meta name="keep-out" content="Yes"><img src="/a.jpg" alt="a red kite on a hill">'
    with open("pages.warc.gz", "wb") as file:
        writer = WARCWriter(file, gzip=True)
        headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
        record = writer.create_warc_record(
            "https://a.example/", "response", payload=io.BytesIO(page), http_headers=headers
        )
        writer.write_record(record)
    Path("mine.toml").write_text('name = "mine"\\n[source]\\nkind = "warc"\\npaths = ["pages.warc.gz"]\\n')
    """
        + textwrap.dedent(CONFIG).replace("\n", "\n    ")
        + """
    print(json.dumps({"dropped": pairs.counts.dropped}))
    """
    )
    assert stranger.evaluate(tmp_path, code)["dropped"] == {"opt_out": 1}


def test_step_of_curate_adds_its_column_and_its_reason(stranger, tmp_path):
    code = """
    import json
    from pathlib import Path
    from dataops.snapshot import read_parts
    from dataops.store import FolderStore
    from tasks.curate.config import CurateConfig
    from tasks.curate.stage import CURATE
    from tasks.engine.context import Context
    from tasks.engine.stage import make, plan
    from tests.unit.tasks.raw_images import downloaded, some_pairs

    if __name__ == "__main__":
        store = FolderStore(Path("store"))
        raw = downloaded(store, some_pairs(), 100)
        config = CurateConfig.model_validate({"brightness": {"least": 10}})
        made = make(plan(CURATE, config, 0, [raw]), Context(store=store, home=Path("home"), workers=1))
        rows = read_parts(store, made).to_pylist()
        print(json.dumps({
            "least": min(row["brightness"] for row in rows), "dim": made.counts.dropped.get("dim", 0),
            "facts": made.facts["brightness"],
        }))
    """
    found = stranger.evaluate(tmp_path, code)
    assert found["least"] >= 10
    assert found["dim"] > 0
    assert found["facts"]["rows"] > 0


def test_loss_trains(stranger, tmp_path):
    code = """
    import json
    from pathlib import Path
    from dataops.snapshot import Counts, Draft
    from dataops.store import FolderStore
    from tasks.engine.context import Context
    from tasks.engine.stage import make, plan
    from tasks.train.stage import TRAIN
    from tests.manifests import build_manifest
    import tasks.train.stage
    from tests.trainings import VIT, packed
    from training.config import TrainConfig
    from training.train import main

    def run_here(module, job, folder, **_):  # another process takes 4 s of CPU time to load torch
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(job))
        assert main([str(folder / "job.json")]) == 0

    tasks.train.stage.run_job = run_here
    store = FolderStore(Path("store"))
    draft = Draft(store, "pack", "a" * 16)
    dataset = build_manifest("pack", packed(draft, 2, 4), key=draft.key, counts=Counts(input=8, kept=8))
    Path("vit.json").write_text(json.dumps(VIT))
    first = {}
    for loss in ("softmax", "halved"):
        values = {"model": "vit.json", "epochs": 1, "batch_size": 8, "vocab_size": 300, "loss": loss, "threads": 1,
                  "log_every": 1, "precision": "fp32"}
        made = make(plan(TRAIN, TrainConfig.model_validate(values), 0, [dataset]), Context(store=store, home=Path("home")))
        lines = store.read(made.path("metrics.jsonl")).splitlines()
        first[loss] = json.loads(lines[0])["loss"]
    print(json.dumps(first))
    """
    found = stranger.evaluate(tmp_path, code)
    assert found["halved"] == pytest.approx(found["softmax"] / 2, rel=1e-5)


def test_pages_of_the_reference_and_the_help_have_what_is_new(stranger, tmp_path):
    pytest.importorskip("plugins.init", reason="the pages of config keys are made of its schema")
    code = """
    import json
    from docs.tools.reference import render_page

    print(json.dumps({name: render_page(name) for name in ("config.md", "drop-reasons.md", "columns.md")}))
    """
    pages = stranger.evaluate(tmp_path, code)
    config = pages["config.md"]
    assert (
        "| `drop_hashtags` | boolean | `false` | Drop captions that have nothing but hashtags, as hashtags. |" in config
    )
    assert "[curate.brightness]" in config
    assert "of kind lines" in config
    assert "The caption has nothing but hashtags." in pages["drop-reasons.md"]
    assert "The caption is dim." in pages["drop-reasons.md"]
    assert "Number of letters of the caption." in pages["columns.md"]
    assert "Greet whoever asks." in stranger.run(tmp_path, "-m", "flows.cli", "--help")
    assert stranger.run(tmp_path, "-m", "flows.cli", "greet") == "hello from a stranger\n"
