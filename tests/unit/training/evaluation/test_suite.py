"""Suites and the layouts of their data: reading, validation and digest."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from dataops import plugins
from dataops.errors import ConfigError, ContractError
from dataops.home import CHECKOUT
from tests.colour_sets import png
from tests.tar_files import write_tar
from training.evaluation.sets import EvalSet
from training.evaluation.suite import Suite, load_suite, read_tasks

PNG = png("red")


def write_set(root, members=None):
    """Write two classes, three samples in two shards, in CLIP_benchmark's layout."""
    write_tar(root / "test/0.tar", members or {"a.png": PNG, "a.cls": b"0", "b.jpg": PNG, "b.cls": b"1\n"})
    write_tar(root / "test/1.tar", {"c.cls": b"1", "c.WEBP": PNG, "c.json": b"{}"})
    (root / "test/nshards.txt").write_text("2\n")
    (root / "classnames.txt").write_text("red panda\nblue whale\n", encoding="utf-8-sig")
    (root / "zeroshot_classification_templates.txt").write_text("a drawing of a {c}\n{c}\n", encoding="utf-8")
    return root


PROBE = 'train_split = "train"\nprotocols = ["linear_probe"]\n'


def write_folders(root, **splits):
    """Replace the shards by the class folders of each split."""
    (root / "test/nshards.txt").unlink()
    for shard in (root / "test").glob("*.tar"):
        shard.unlink()
    (root / "classnames.txt").unlink()
    for split, names in splits.items():
        for name in names:
            (root / split / name).mkdir(parents=True)


def write_suite(path, *tasks):
    path.write_text('name = "s"\n' + "\n".join(f"[[task]]\n{task}" for task in tasks), encoding="utf-8")
    return path


TASK = 'name = "t"\nkind = "classification"\nroot = "data"\n'


def test_webdataset_layout_is_read_in_order(tmp_path):
    data = EvalSet(write_set(tmp_path), "test", "classification")
    assert data.class_names() == ["red panda", "blue whale"]
    assert data.templates() == ["a drawing of a {c}", "{c}"]
    assert [(s.key, s.label) for s in data.samples()] == [("a", 0), ("b", 1), ("c", 1)]
    assert data.problems() == []


def test_image_folder_is_read_in_the_order_of_the_names(tmp_path):
    for name in ("zebra/2.png", "zebra/1.jpg", "ant/x.PNG", "ant/notes.txt", ".cache/y.png"):
        (tmp_path / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / name).write_bytes(PNG)
    data = EvalSet(tmp_path, "test", "classification")
    assert data.class_names() == ["ant", "zebra"]
    assert data.templates() == ["a photo of a {c}."]
    assert [(s.key, s.label) for s in data.samples()] == [("ant/x.PNG", 0), ("zebra/1.jpg", 1), ("zebra/2.png", 1)]
    (tmp_path / "classnames.txt").write_text("an ant\n")
    assert "1 names" in data.problems()[0]


GOOD = [("a.png", PNG), ("a.cls", b"0")]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": PNG, "a.cls": b"2"}, "0.tar: a.cls holds '2', which is no label from 0 to 1"),
        ({"a.png": PNG, "a.cls": b"-1"}, "a.cls holds '-1'"),
        ({"a.png": PNG, "a.cls": "١".encode()}, "no label"),
        ({"a.png": PNG, "a.cls": b"\xff"}, "a.cls is not UTF-8"),
        ({"a.png": PNG}, "sample 'a' needs one image"),
        ({"a.cls": b"0"}, "sample 'a' needs one image"),
        ({"a.png": PNG, "a.jpg": PNG, "a.cls": b"0"}, "needs one image"),
        ({"a.png": PNG, "a.cls": b"9" * 5000}, "no label from 0 to 1"),
        ([*GOOD, ("a.png", PNG)], "appears twice"),
        ([*GOOD, ("b.png", PNG), ("b.cls", b"0"), *GOOD], "appears twice"),
    ],
)
def test_an_invalid_sample_raises_an_error_that_names_it(tmp_path, members, message):
    data = EvalSet(write_set(tmp_path, members), "test", "classification")
    with pytest.raises(ContractError, match=message.replace("(", r"\(")):
        list(data.samples())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: (r / "classnames.txt").unlink(), "classnames.txt: missing"),
        (lambda r: (r / "classnames.txt").write_text("a\n\nb\n"), "classnames.txt: has a blank line 2"),
        (lambda r: (r / "zeroshot_classification_templates.txt").write_text("a {}"), "'a {}' has no {c}"),
        (lambda r: (r / "test/nshards.txt").write_text("three"), "'three' is not a number of shards"),
        (lambda r: (r / "test/1.tar").unlink(), "names 2 shards, but 1.tar is missing"),
        (lambda r: write_folders(r, test=["a", "b", "c"], train=["a", "c"]), "its splits have different class folders"),
        (lambda r: (r / "dataset_type.txt").write_text("retrieval\n"), "has 'retrieval', but `kind` of the suite is"),
    ],
)
def test_layout_problems_are_found_when_the_suite_is_loaded(tmp_path, spoil, message):
    spoil(write_set(tmp_path / "data"))
    protocols = ""
    if (tmp_path / "data/train").exists():
        pytest.importorskip("plugins.evaluation_sets")
        protocols = PROBE
    with pytest.raises(ConfigError) as caught:
        load_suite(write_suite(tmp_path / "s.toml", TASK + protocols))
    assert message in str(caught.value)
    assert f"\n  task.0.root: {tmp_path / 'data'}" in str(caught.value)


def test_load_suite_lists_all_problems_in_one_error(tmp_path):
    write_set(tmp_path / "data")
    text = '\ncolour = 1\n[[task]]\nname = "a b"\nkind = "probe"\nroot = "data"\nsplitt = "x"\n[[task]]\nname = "u"\n'
    text += 'kind = "retrieval"\nroot = "nowhere"\n[[task]]\nname = "v"\nkind = "retrieval"\nroot = "a\\u0000b"\n'
    text += 'val_split = "../x"\nsource = "x"\nclasses = "3"\nin_average = 1\n[task.group]\ncolumn = -1\ncolunm = 2\n'
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_suite(tmp_path / "s.toml")
    assert str(caught.value).splitlines()[1:-1] == [
        "  name: is required",
        "  task.0.name: 'a b': use up to 40 letters, digits, '_' and '-', a letter first (line 4)",
        "  task.0.kind: 'probe'; allowed: 'classification', 'multilabel', 'retrieval', 'association' or 'choice' (line 5)",
        "  task.0.splitt: unknown key (value 'x'); did you mean task.0.split? (line 7)",
        "  task.2.root: 'a\\x00b': no path has a NUL character; remove it (line 15)",
        "  task.2.source: 'x': it must be OWNER/NAME of a dataset on Hugging Face (line 17)",
        "  task.2.val_split: '../x': it must be the name of a folder: letters, digits, '.', '_' and '-', a letter or digit "
        "first (line 16)",
        "  task.2.group.name: is required (line 20)",
        "  task.2.group.column: -1: it must be greater than or equal to 0 (line 21)",
        "  task.2.group.colunm: unknown key (value 2); did you mean task.2.group.column? (line 22)",
        "  colour: unknown key (value 1); allowed: name, task (line 2)",
        "  task.2.classes: '3': it must be an integer (line 18)",
        "  task.2.in_average: 1: it must be true or false (line 19)",
        f"  task.1.root: {tmp_path / 'nowhere'}: no such folder (line 11)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "s"', "at least one"),
        ('name = "s"\ntask = [3]', "task.0: 3: it must be a table (line 2)"),
        ('name = "s"' + f"\n[[task]]\n{TASK}" * 2, "task: 2 tasks are named 't'; their names must differ (line 2)"),
        ("name = ", "TOML"),
    ],
)
def test_an_invalid_suite_file_raises_config_error(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_suite(tmp_path / "s.toml")
    assert message in str(caught.value)
    (tmp_path / "mine.toml").touch()  # only the ending is like that of the suite
    with pytest.raises(ConfigError, match=r"no such suite file; docs/evaluate/evaluation\.md has an example\Z"):
        load_suite(tmp_path / "my-suite.toml")


def test_roots_are_resolved_against_the_data_root_or_the_file(tmp_path):
    write_set(tmp_path / "data")
    write_set(tmp_path / "elsewhere/data")
    path = write_suite(tmp_path / "s.toml", TASK)
    assert load_suite(path).tasks[0].root == str(tmp_path / "data")
    suite = load_suite(path, tmp_path / "elsewhere")
    assert suite.tasks[0].root == str(tmp_path / "elsewhere/data")
    assert Suite.model_validate_json(suite.model_dump_json()) == suite


def test_digest_covers_every_byte_and_no_path(tmp_path):
    path = write_suite(tmp_path / "s.toml", TASK)
    write_set(tmp_path / "data")
    write_set(tmp_path / "elsewhere/data")
    digest = load_suite(path).digest()
    assert load_suite(path, tmp_path / "elsewhere").digest() == digest

    changes = {
        "classnames.txt": b"red panda\nblue whales\n",
        "zeroshot_classification_templates.txt": b"{c}\n",
        "test/1.tar": (tmp_path / "data/test/0.tar").read_bytes(),
    }
    digests = {digest}
    for name, data in changes.items():
        before = (tmp_path / "data" / name).read_bytes()
        (tmp_path / "data" / name).write_bytes(data)
        digests.add(load_suite(path).digest())
        (tmp_path / "data" / name).write_bytes(before)
    assert len(digests) == 4
    assert load_suite(path).digest() == digest
    write_folders(tmp_path / "elsewhere/data", test=["a", "c"])
    digest_of_folders = load_suite(path, tmp_path / "elsewhere").digest()
    (tmp_path / "elsewhere/data/test/b").mkdir()
    assert load_suite(path, tmp_path / "elsewhere").digest() != digest_of_folders
    (tmp_path / "data/README").write_text("not read by the evaluation")
    assert load_suite(path).digest() == digest


def npy(value):
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def write_npy_set(root, array, *more):
    write_tar(root / "test/0.tar", {"a.png": PNG, "a.npy": array, **dict(more)})
    (root / "test/nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("gender:man\ngender:woman\nage:young\nage:middling\nage:old\n")
    templates = "gender:a photo of a {c}\nage:a {c} person\nage:{c}\n"
    (root / "zeroshot_classification_templates.txt").write_text(templates)
    return root


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (npy(np.array([0, 1])), r"0 or 1 for each of 5 classes; it has 2 numbers"),
        (npy(np.array([0, 1, 2, 0, 0])), "0 or 1 for each"),
        (npy(np.array([0.5, 1, 0, 0, 0])), "not whole numbers"),
        (npy(np.zeros((5, 5))), "it is no row of numbers"),
        (npy(np.array([[1, "x"], None], dtype=object)), "it is a pickle"),
        (pickle.dumps([0, 1, 1, 0, 0]), "it is a pickle"),
        (b"", "cannot be read"),
        (npy(np.array([0, 1, 1, 0, 0]))[:-9], "cannot be read"),
    ],
)
def test_an_invalid_npy_row_raises_contract_error_and_no_pickle_is_read(tmp_path, array, message):
    write_npy_set(tmp_path, array)
    with pytest.raises(ContractError, match=r"0\.tar: a\.npy.*" + message):
        list(EvalSet(tmp_path, "test", "multilabel").samples())


def test_a_set_with_several_objectives_reads_its_label_from_the_facts(tmp_path):
    write_npy_set(tmp_path, npy(np.array([2, 1, 7])))
    age = EvalSet(tmp_path, "test", "classification", objective="age", label_column=0, with_facts=True)
    assert age.class_names() == ["young", "middling", "old"]
    assert age.templates() == ["a {c} person", "{c}"]
    (sample,) = age.samples()
    assert (sample.label, sample.facts) == (2, (2, 1, 7))
    gender = EvalSet(tmp_path, "test", "classification", objective="gender", label_column=2)
    with pytest.raises(ContractError, match=r"column 2 of .* is no label from 0 to 1"):
        list(gender.samples())
    with pytest.raises(ContractError, match="no line begins with 'height:'"):
        EvalSet(tmp_path, "test", "classification", objective="height").class_names()


def test_a_partial_suite_lists_absent_tasks_with_the_reason(tmp_path):
    pytest.importorskip("plugins.evaluation_sets")
    write_set(tmp_path / "data")
    text = TASK + 'train_split = "train"\nprotocols = ["linear_probe", "prompts"]\n'
    absent = 'name = "u"\nkind = "retrieval"\nsource = "someone/wds_u"\n'
    never = 'name = "v"\nkind = "classification"\nmissing = "its owner keeps it"\n'
    path = write_suite(tmp_path / "s.toml", text, absent, never)
    suite = load_suite(path, partial=True)
    assert [(task.name, task.protocols) for task in suite.tasks] == [("t", ("prompts",))]
    reasons = {each.name: each.reason for each in suite.absent}
    assert list(reasons) == ["t.linear_probe", "u", "v"]
    assert "has no split train" in reasons["t.linear_probe"]
    assert f"{tmp_path / 'wds_u'} is not there; fetch it: pairmill datasets fetch" in reasons["u"]
    assert reasons["v"] == "its owner keeps it"
    with pytest.raises(ConfigError, match="2 problems\n"):
        load_suite(path)
    with pytest.raises(ConfigError, match="none of its 1 sets is there"):
        load_suite(write_suite(tmp_path / "t.toml", absent), partial=True)


NEEDS_PLUGIN = pytest.mark.skipif("few_shot" not in plugins.load("protocols"), reason="its plugin is not there")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('metric = "mean_average_precision"', "is none of a classification task"),
        ('metric = "worst_group_top1"', r"needs \[task.group\]"),
        pytest.param('protocols = ["few_shot"]', "need train_split", marks=NEEDS_PLUGIN),
        ('protocols = ["unheard_of"]', "there is no 'unheard_of' among the protocols"),
        ('base = "nobody"', "no task is named 'nobody'"),
        ("classes = 3", "has 2 classes, but `classes` of the suite is 3"),
        ('source = "../up"', "source: '../up': it must be OWNER/NAME"),
    ],
)
def test_a_contradictory_task_raises_config_error(tmp_path, extra, message):
    write_set(tmp_path / "data")
    with pytest.raises(ConfigError, match=message):
        load_suite(write_suite(tmp_path / "s.toml", TASK + extra))


@pytest.mark.parametrize(("name", "tasks", "missing"), [("paper", 37, 6), ("datacomp", 42, 3), ("vtab", 19, 0)])
def test_shipped_suites_have_their_tasks(name, tasks, missing):
    pytest.importorskip("plugins.evaluation_sets")
    found, labelled, problems = read_tasks(CHECKOUT / f"configs/suites/{name}.toml", Path("/data"))
    assert (found, len(labelled), problems) == (name, tasks, [])
    sets = [task for _, task in labelled]
    assert sum(bool(task.missing) for task in sets) == missing
    assert all(task.source or task.missing for task in sets)
    assert all(task.root == f"/data/{task.source.partition('/')[2]}" for task in sets if task.source)
    shifted = {task.name for task in sets if task.base in ("imagenet", "imagenet1k")}
    assert len(shifted) == {"paper": 7, "datacomp": 5, "vtab": 0}[name]  # the paper's seven natural shifts
