"""Variants are checked before anything is spent, equal snapshots are made once, and the result names what decides."""

import json
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dataops.errors import ConfigError
from dataops.snapshot import Counts, Draft, find_manifest
from dataops.store import open_store
from dataops.trace.requests import make_request, record_request
from dataops.trace.targets import Target
from flows.app import run_command
from flows.config import load_config
from flows.pipeline import PIPELINE
from plugins.experiments import command, servers
from plugins.experiments.config import list_settings, load_experiment
from plugins.experiments.decide import read_result, score_images
from plugins.experiments.ladder import HOLDOUT_LOSS, parse_target, read_points
from plugins.experiments.run import CHANGED, Outcome, Work, load_record
from tasks.engine.stage import plan
from tests.colour_sets import NAMES, shown, write_set
from tests.manifests import build_manifest
from training.evaluation.zero_shot import PREDICTIONS
from training.loop import interim_evaluation

IMAGES = 400
VARIANTS = {"none": "{}", "long": '{ "filter.min_chars" = 20 }', "short": "{ filter.max_chars = 50 }"}
Right = Callable[[str, int, np.random.Generator], float]
LADDER = "[ladder]\nsamples_seen = [100, 200, 400]"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Write a config with a suite of one set of colours, and work in its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no test loses power
    write_set(tmp_path / "sets" / "colours", [shown(name, name) for name in NAMES])
    (tmp_path / "suite.toml").write_text(
        'name = "small"\n[[task]]\nname = "colours"\nkind = "classification"\nroot = "sets/colours"\n'
    )
    (tmp_path / "a.warc.gz").touch()
    (tmp_path / "mine.toml").write_text(
        f'name = "mine"\n[store]\nuri = "{tmp_path / "store"}"\n[source]\nkind = "warc"\npaths = ["a.warc.gz"]\n'
        '[download]\ncontact = "mailto:a@b.test"\n[train]\nepochs = 8\n[evaluate]\nsuite = "suite.toml"\n'
    )
    return tmp_path


def write(variants=VARIANTS, more=""):
    """Write the file of an experiment, and return its path."""
    top = [line for line in more.splitlines() if line.startswith("seeds")]
    more = "\n".join(line for line in more.splitlines() if line not in top)
    lines = [
        'name = "which"',
        'base = "mine.toml"',
        *top,
        "[variants]",
        *(f"{name} = {one}" for name, one in variants.items()),
    ]
    path = Path("which.toml").absolute()
    path.write_text("\n".join([*lines, more, ""]))
    return path


@dataclass
class MadeRuns:
    """Stands for the runs: it commits the snapshots that are missing, with predictions that are right by chance.

    Args:
        right: probability of a right answer, by variant, seed and a generator of the run.
        matched: names of test images in the training data of a variant.
        before: called with the variant's setting and the seed; may raise, or return an exit code.
    """

    right: Right = lambda variant, seed, generator: 0.6
    matched: Mapping[str, int] = field(default_factory=dict)
    before: Callable[[str, int], int] = lambda variant, seed: 0
    made: list[str] = field(default_factory=list)
    runs: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    missed: Callable[[str, int], float] | None = None
    """Share of wrong answers by variant and epochs, in place of `right`."""
    speed: Mapping[str, float] = field(default_factory=dict)
    """Samples per second of a variant's trainings."""

    def __call__(self, run_id, path, settings, until):
        name = next(
            (one for one in ("long", "short") if any(f"filter.m{s}" in settings[0] for s in _KEYS[one])), "none"
        )
        config = load_config(path, settings, until)
        seed = config.train.seed or 0
        if code := self.before(name, seed):
            return Outcome(code, stopped=code == 130)
        store, found, self.runs = open_store(config.store.uri), {}, self.runs + 1
        for step in PIPELINE:
            stage, table = step.stage.name, config.stage_config(step.table)
            planned = plan(step.stage, table, config.seed, [found[one] for one in step.reads], store)
            if made := find_manifest(store, stage, planned.key):
                found[stage] = made
                continue
            self.made.append(f"{stage}/{planned.key}")
            draft = Draft(store, stage, planned.key)
            parts, facts = self._evaluate(draft, name, seed, config.train.epochs) if stage == "evaluate" else ([], {})
            kept = round(self.rows.get(name, 100) * (config.curate.sample.share if config.curate.sample else 1))
            if stage == "train" and self.missed:
                row = {"step": 1, "holdout_loss": self.missed(name, config.train.epochs), "holdout_mean_R_at_1": 0.5}
                facts = {"holdout": {"pairs": 200, "kept_step": 1, "ended_early": False, "curve": [row]}}
            if stage == "train":
                rate = {"samples_per_second": self.speed.get(name, 100.0)}
                parts = [draft.put_bytes("evidence-throughput.jsonl", json.dumps(rate).encode())]
            counts = (
                Counts(input=kept + 5, kept=kept, dropped={"too_short": 5}) if stage == "filter" else Counts(kept=kept)
            )
            manifest = build_manifest(
                stage, parts, key=planned.key, inputs=list(planned.inputs), counts=counts, facts=facts,
                content_digest=planned.key, config=json.loads(json.dumps(table.key_config())),
            )  # fmt: skip
            found[stage] = draft.commit(manifest)
            if stage == until:
                break
        return Outcome(0)

    def _evaluate(self, draft, name, seed, epochs):
        own = np.random.default_rng([len(name), seed, 5, *([epochs] if self.missed else [])])
        share = 1 - self.missed(name, epochs) if self.missed else self.right(name, seed, own)
        right = own.random(IMAGES) < share
        matched = np.arange(IMAGES) < self.matched.get(name, 0)
        rows = [
            {"key": f"s{n}", "label": n % 10, "rank": 1 if hit or known else 3, "status": "ok"}
            for n, (hit, known) in enumerate(zip(right, matched, strict=True))
        ]
        table = pa.Table.from_pylist(rows, schema=PREDICTIONS)
        keys = [f"s{n}" for n in np.flatnonzero(matched)]
        matches = pa.table(
            {"uid": [f"{n:032x}" for n in range(len(keys))], "evaluation_set": ["colours"] * len(keys), "member": keys}
        )
        value = float((right | matched).mean())
        metrics = {
            "colours": {
                "kind": "classification", "n": IMAGES, "main_metric": "top1", "in_average": True,
                "metrics": {"top1": {"value": value, "low": value, "high": value, "chance": 0.1}},
            }
        }  # fmt: skip
        parts = [
            draft.put_table("predictions-colours.parquet", table),
            draft.put_table("evaluation-matches.parquet", matches),
            draft.put_bytes("metrics.json", json.dumps(metrics).encode()),
        ]
        return parts, {"metrics": metrics}


_KEYS = {"long": ("in_chars",), "short": ("ax_chars",)}


def make(runs, path=None):
    work = Work(load_experiment(path or write()), Path("home").absolute(), runs)
    code = work.make()
    return code, work.record, read_result(work.record, work.store)


def by_noise(gap):
    return lambda variant, seed, generator: 0.5 + gap.get(variant, 0.0) + generator.normal(0, 0.005)


@pytest.mark.parametrize(
    ("variants", "more", "said"),
    [
        ({"a": "{}", "b": '{ "filter.min_chras" = 3 }'}, "", "variant b: .*min_chras"),
        ({"a": "{}", "b": '{ "train.epochs" = 8 }'}, "", "b changes nothing: .* makes the same with train.epochs=8"),
        ({"a": "{}", "b": "{}"}, "", "variants a and b are equal"),
        ({"a": "{}"}, "", "at least two"),
        ({"a": "{}", '"b/ü"': "{ train.epochs = 3 }"}, "", "'b/ü': write at most 64 Latin letters"),
        ({"a": "{}", "b": '{ "train" = 5 }'}, "", "variant b sets train, which is a table; set its keys: train.KEY"),
        ({"a": "{}", "b": "{ train.seed = 4 }"}, "", "variant b sets train.seed"),
        ({"a": "{}", "b": '{ store.uri = "else" }'}, "", "variant b sets store.uri"),
        (VARIANTS, '[decide]\nmetric = "birds"', "'birds' is not in the suite small; it has colours/top1"),
        (VARIANTS, '[decide]\nmetric = "colours/jaccard"', "is not in the suite small"),
        (VARIANTS, "[decide]\nconfidence = 1.0", "decide.confidence"),
        (VARIANTS, "[ladder]\nsamples_seen = [1e5, 1e5, 1e6]", "ladder.samples_seen: .*at least 3 different scales"),
        ({"a": "{}", "b": "{ train.epochs = 3 }"}, LADDER, "b sets it too"),
        (VARIANTS, '[control]\nequal = "hours"', "'epochs', 'samples_seen', 'seconds' or 'pairs'"),
        ({"a": "{}", "b": "{ curate.sample.share = 0.5 }"}, '[control]\nequal = "pairs"', "sets curate.sample.share"),
        ({"a": "{}", "b": "{ train.epochs = 3 }"}, '[control]\nequal = "seconds"', "b sets it too"),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_before_anything_is_made(variants, more, said, project):
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        load_experiment(write(variants, more), writes=False)
    assert not (project / "store").exists()


def test_a_variant_may_set_tables_lists_and_keys_with_dots():
    """Each setting gives the value back that the file has."""
    values = {
        "filter": {"languages": ["en", "de"], "min_chars": 3},
        "download.connect_to": {"a.test": "127.0.0.1:80"},
        "train.dataset": [{"weight": 0.5}, {"key": "0" * 16, "weight": 1e-9}],
        "x": {},
        "quoted": 'a "b" = c',
    }
    settings = list_settings(values)
    found = {line.partition("=")[0]: tomllib.loads(f"value = {line.partition('=')[2]}")["value"] for line in settings}
    opened = {f"filter.{key}": one for key, one in values.pop("filter").items()}
    assert found == opened | values


def test_equal_snapshots_are_made_once_and_a_second_call_makes_none():
    runs = MadeRuns()
    code, record, _ = make(runs)
    assert code == 0
    keys = {f"{stage}/{key}" for cell in record.cells for stage, key in cell.keys.items()}
    assert sorted(runs.made) == sorted(keys)  # no key twice
    stages = [name.partition("/")[0] for name in runs.made]
    assert {stage: stages.count(stage) for stage in set(stages)} == {
        "extract": 1, "filter": 3, "download": 3, "curate": 3, "pack": 3, "train": 9, "evaluate": 9,
    }  # fmt: skip
    again = MadeRuns()
    assert make(again)[0] == again.runs == 0


def test_a_ladder_whose_scales_are_the_same_epochs_is_an_error_before_it_is_trained():
    make(MadeRuns())
    work = Work(load_experiment(write(more="[ladder]\nsamples_seen = [1, 2, 3]")), Path("home").absolute(), None)
    with pytest.raises(ConfigError, match=r"the 100 pairs of none, these .* are 1 and 8 epochs; a curve needs 3"):
        work.check_ladder()


def test_a_killed_experiment_continues_where_it_stopped(caplog):
    class Killed(BaseException):
        pass

    def kill(variant, seed):
        if (variant, seed) == ("long", 1):
            raise Killed
        return 0

    first, second = MadeRuns(before=kill), MadeRuns()
    with pytest.raises(Killed):
        make(first)
    record = load_record("which", open_store(str(Path("store").absolute())))
    assert [cell.state for cell in record.cells[:5]] == ["complete"] * 4 + ["running"]
    make(second)
    whole = MadeRuns()
    assert not {*first.made} & {*second.made}
    assert len(first.made) + len(second.made) == 31
    cells = make(whole)[1].cells  # with the runs of the calls before
    assert [len(cell.run_ids) for cell in cells] == [1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert "another variant" not in caplog.text
    Work(load_experiment(write({"none": "{}", "long": '{ "train.lr" = 0.01 }'})), Path("home").absolute(), None)
    assert "an experiment which in which long, short is another variant" in caplog.text
    Path("store/experiments/which.json").write_text("null")
    assert len(make(whole)[1].finished) == len(cells)
    assert "which.json is no record of an experiment" in caplog.text
    assert load_record("../experiments/which", open_store(str(Path("store").absolute()))) is None


def test_a_takedown_meanwhile_trains_all_seeds_on_the_next_version_of_the_dataset():
    def take_down(variant, seed):
        if left[variant, seed]:
            left[variant, seed] -= 1
            targets = [Target("domain", f"{left.total()}.test")]
            record_request(open_store(str(Path("store").absolute())), make_request(targets, ""))
        return 0

    runs, left = MadeRuns(before=take_down), Counter({("long", 0): 1, ("short", 1): 1})
    code, record, _ = make(runs)
    packs = {name: {cell.keys["pack"] for cell in record.finished if cell.variant == name} for name in VARIANTS}
    assert (code, [len(keys) for keys in packs.values()], len(record.finished)) == (0, [1, 1, 1], 9)
    left |= {("long", 0): 9, ("long", 1): 9}  # a takedown in each run
    take_down("long", 0)
    work = Work(load_experiment(write()), Path("home").absolute(), runs)
    assert work.make() == 75
    assert {cell.error for cell in work.record.cells} == {"", CHANGED}


def test_a_signal_ends_the_experiment_and_keeps_its_exit_code():
    runs = MadeRuns(before=lambda variant, seed: 130 if (variant, seed) == ("short", 0) else 0)
    work = Work(load_experiment(write()), Path("home").absolute(), runs)
    assert work.make() == 130
    assert [cell.state for cell in work.record.cells[:4]] == ["complete", "complete", "stopped", "waiting"]


def test_a_failed_variant_is_shown_and_the_others_are_compared():
    runs = MadeRuns(by_noise({"short": 0.3}), before=lambda variant, seed: 3 if variant == "long" else 0)
    code, record, result = make(runs)
    assert code == 3
    assert [cell.state for cell in record.cells if cell.variant == "long"] == ["failed", "skipped", "skipped"]
    assert result.compared == ["none", "short"]
    assert result.decision == "short is better than none (95% confidence)."
    (failed,) = [cell.run_ids[-1] for cell in record.cells if cell.state == "failed"]
    assert result.notes == [f"long has no result: exit code 3; `pairmill show {failed}` has the error"]
    repaired = MadeRuns(by_noise({"short": 0.3}))
    assert (make(repaired)[0], repaired.runs) == (0, 3)


def test_equal_samples_give_a_smaller_dataset_more_epochs():
    runs = MadeRuns(rows={"none": 100, "long": 50, "short": 33})
    _, record, result = make(runs, write(more='[control]\nequal = "samples_seen"'))
    assert record.epochs == {"none": 8, "long": 16, "short": 24}
    assert [one.samples_seen for one in result.variants] == [800, 800, 792]


def test_equal_seconds_follow_the_measured_speed_and_equal_pairs_the_smallest_dataset():
    """What was measured is recorded: a second call with other speeds makes nothing."""
    rows, seconds = {"none": 100, "long": 50, "short": 80}, '[control]\nequal = "seconds"'
    _, record, _ = make(MadeRuns(rows=rows, speed={"none": 100, "long": 100, "short": 50}), write(more=seconds))
    assert record.epochs == {"none": 8, "long": 16, "short": 5}
    assert record.rates == {"none": 100, "long": 100, "short": 50}
    again = MadeRuns(speed={"none": 1, "long": 9})
    assert make(again, write(more=seconds))[1].epochs == record.epochs
    assert again.runs == 0
    pairs = '[control]\nequal = "pairs"'
    runs = MadeRuns(rows=rows)
    _, record, result = make(runs, write(more=pairs))
    assert record.shares == {"none": 0.5, "short": 0.625}
    assert [one.rows for one in result.variants] == [50, 50, 50]
    assert make(again, write(more=pairs))[1].shares == record.shares
    assert again.runs == 0


def test_a_race_trains_no_further_seed_of_a_variant_that_lost():
    runs, file = MadeRuns(by_noise({"none": 0.3, "short": 0.3})), write(more="seeds = 5\n[decide]\nracing = true")
    _, record, result = make(runs, file)
    states = {name: [cell.state for cell in record.cells if cell.variant == name] for name in VARIANTS}
    assert states["none"] == states["short"] == ["complete"] * 5
    lost = states["long"].index("ended")
    assert 2 <= lost < 5
    assert states["long"][lost:] == ["ended"] * (5 - lost)
    assert runs.runs == 10 + lost
    assert any(note.startswith("long got no further seeds: worse than") for note in result.notes)
    assert "not distinguishable from" in result.decision
    assert "long" not in result.decision
    again = MadeRuns()
    assert make(again, file)[2].decision == result.decision
    assert again.runs == 0


def test_a_race_ends_when_one_variant_is_left():
    file = write({name: VARIANTS[name] for name in ("none", "long")}, "seeds = 5\n[decide]\nracing = true")
    _, record, result = make(MadeRuns(by_noise({"long": 0.4})), file)
    assert [cell.error for cell in record.cells if cell.variant == "long"][-1].startswith("the best after")
    assert result.decision == "long is better than none (95% confidence)."
    assert result.adopt == [str(file.parent / "mine.toml"), "filter.min_chars=20", 'register.decided_by="which"']


def test_a_suite_at_chance_decides_nothing():
    result = make(MadeRuns(lambda variant, seed, generator: 0.1))[2]
    assert (
        result.decision == "Nothing is decided: every variant is at chance on the suite, so it cannot distinguish them."
    )


def test_a_variant_that_is_ahead_by_contamination_is_named():
    result = make(MadeRuns(by_noise({"short": 0.03}), matched={"long": 120}))[2]
    assert result.decision.startswith("long is better than none and short")
    assert (
        "long is ahead by contamination: without the test images that are in training data, short leads."
        in result.decision
    )
    assert "120 test images are in the training data of long" in result.notes


def test_commands_print_plan_result_and_page(project, monkeypatch, capsys, read_json):
    runs = MadeRuns(by_noise({"long": 0.25}))
    monkeypatch.setattr(command, "run_cell", runs)
    monkeypatch.setattr(command, "start_servers", lambda: None)
    monkeypatch.setattr(servers, "run_in_flow", lambda record, store, make: make())
    monkeypatch.setattr(servers, "show_in_mlflow", lambda result, record, store: None)
    assert run_command(["experiment", str(write()), "--dry-run", "--json"]) == 0
    planned = read_json()
    assert planned["total"]["stages"] == 31
    assert [one["make"] for one in planned["runs"][3:4]] == [["train", "evaluate"]]
    assert not (project / "store").exists()
    assert run_command(["experiment", "which.toml"]) == 0
    assert "long is better than none and short" in capsys.readouterr().out
    assert run_command(["experiment", "show", "which", "--store", "store", "--json"]) == 0
    shown = read_json()
    assert [one["rows"] for one in shown["variants"]] == [100] * 3
    assert shown["comparisons"][0]["second"] == "long"
    assert run_command(["experiment", "show", "which", "--store", "store", "--page", "no/p.html"]) == 2
    assert "cannot write no/p.html" in capsys.readouterr().err


def test_a_ladder_forecasts_where_curves_cross_and_what_a_plan_reaches(capsys, read_json):
    """`long` starts ahead and hardly rises; `none` rises to 1 - 0.5 / sqrt(epochs). Trainings of equal epochs are one."""
    missed = {"none": lambda epochs: 0.5 * epochs**-0.5, "long": lambda epochs: 0.15 + 0.04 * epochs**-0.5}
    runs = MadeRuns(missed=lambda variant, epochs: missed[variant](epochs))
    variants = {name: VARIANTS[name] for name in missed}
    _, record, result = make(runs, write(variants, LADDER))
    assert len(record.compared) == 6
    assert sorted({cell.samples or 0 for cell in record.cells}) == [0, 100, 200, 400]
    assert [name.partition("/")[0] for name in runs.made].count("train") == 24
    none, long, *losses = result.forecasts
    assert [(one.variant, one.metric) for one in losses] == [("none", HOLDOUT_LOSS), ("long", HOLDOUT_LOSS)]
    losses_of_none = read_points(record, open_store(str(Path("store").absolute())), "none")[HOLDOUT_LOSS]
    assert (losses_of_none.chance, losses_of_none.bound) == (np.log(interim_evaluation.LOSS_PAIRS), 0)
    assert {*zip(losses_of_none.samples, losses_of_none.values, strict=True)} == {
        (100.0 * epochs, missed["none"](epochs)) for epochs in (1, 2, 4, 8)
    }
    assert none.largest == long.largest == 800
    assert none.expected[2] is not None
    assert none.expected[2].low <= 1 - missed["none"](16) <= none.expected[2].high
    assert any("none is expected to be better than long from" in note for note in result.notes)
    assert run_command(["plan", "mine.toml", "--set", "train.epochs=16", "--json"]) == 0
    (expected,) = read_json()["expected"]
    assert expected["samples"] == 1600
    assert expected["low"] < 1 - missed["none"](16) < expected["high"]
    assert run_command(["plan", "mine.toml", "--target", "colours top1 = 85%", "--json"]) == 0
    (reached,) = read_json()["expected"]
    assert reached["low"] <= 100 * (0.5 / 0.15) ** 2 <= (reached["high"] or np.inf)
    assert run_command(["plan", "mine.toml", "--target", "colours = 1%"]) == 2
    assert "1.00% is not above chance, which is 10.00%" in capsys.readouterr().err
    assert run_command(["plan", "mine.toml", "--set", "train.lr=0.1", "--json"]) == 0
    assert read_json()["expected"] == []


@pytest.mark.parametrize("target", ["60%", "top1 60%", "mean = ", "mean = 60", "mean = 1.2.3", "a b c = 0.5"])
def test_a_target_that_cannot_be_read_is_an_error(target):
    with pytest.raises(ConfigError, match="TASK METRIC = VALUE"):
        parse_target(target)


@pytest.mark.parametrize(
    ("metric", "value"),
    [("image_to_text_R_at_5", 2 / 3), ("text_to_image_R_at_1", 2 / 4), ("mean_R_at_1", (1 / 3 + 2 / 4) / 2)],
)
def test_scores_of_images_have_the_metric_as_their_weighted_mean(metric, value):
    table = pa.table(
        {
            "captions": [["a", "b"], ["c"], ["d"]],
            "image_to_text_rank": pa.array([1, 3, None], pa.int32()),
            "text_to_image_ranks": pa.array([[1, 9], [1], None], pa.list_(pa.int32())),
        }
    )
    scores, weights = score_images(metric, table)
    assert scores @ weights / weights.sum() == pytest.approx(value)


def test_the_mean_per_class_weighs_classes_alike():
    table = pa.table({"label": [0, 0, 0, 1], "rank": pa.array([1, 1, 2, None], pa.int32())})
    scores, weights = score_images("mean_per_class", table)
    assert scores @ weights / weights.sum() == pytest.approx((2 / 3 + 0) / 2)
