"""`pairmill eval` as a user runs it: two models on a suite of real and damaged sets, with its page."""

import io

import numpy as np
import pytest
from PIL import Image

from flows.app import run_command
from tests.tar_files import write_tar

NAMES = ["<b>nought</b>", *(str(n) for n in range(1, 10))]


def model(folder, seed):
    from tests.small_model import write_model  # here, since it loads torch, and all test processes load this module

    return write_model(folder, NAMES, seed)


def write_digits(root, kind):
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    members = []
    for number in range(60):
        sink = io.BytesIO()
        Image.fromarray(np.rint(scans[number].reshape(8, 8) * 255 / 16).astype(np.uint8)).save(sink, "PNG")
        suffix, answer = ("cls", "{}") if kind == "classification" else ("txt", "a <i>{}</i>")
        members.append((f"{number:03d}.png", sink.getvalue() if number else b"broken"))
        members.append((f"{number:03d}.{suffix}", answer.format(labels[number])))
    write_tar(root / "test/0.tar", members)
    (root / "test/nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(NAMES))
    (root / "zeroshot_classification_templates.txt").write_text("{c}\na <u>{c}</u>")
    return root


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    write_digits(tmp_path / "digits", "classification")
    write_digits(tmp_path / "captions", "retrieval")
    rows = ""
    for name, kind, extra in (
        ("digits", "classification", 'root = "digits"\nprotocols = ["prompts"]'),
        ("captions", "retrieval", 'root = "captions"'),
        ("never", "classification", 'missing = "nobody <s>has</s> it"'),
    ):
        rows += f'[[task]]\nname = "{name}"\nkind = "{kind}"\n{extra}\n'
    (tmp_path / "s.toml").write_text(f'name = "trial"\n{rows}')
    return tmp_path


def test_eval_compares_two_models_writes_a_page_and_reuses_results(workspace, capsys, read_json, caplog):
    caplog.set_level("INFO")
    first, second = model(workspace / "a", 0), model(workspace / "b", 1)
    command = ["eval", str(first), "--suite", str(workspace / "s.toml"), "--against", str(second)]
    page = workspace / "page.html"
    assert [run_command([*command, wrong]) for wrong in ("--device=foo", "--nproc=0")] == [2, 2]
    assert run_command([*command, "--page", str(page), "--json"]) == 0
    out = read_json()
    assert out["metrics"]["digits"]["unreadable"] == 1
    assert out["average"]["missing"] == {"never": "nobody <s>has</s> it"}
    values = [
        out["metrics"]["digits"]["metrics"]["top1"]["value"],
        out["metrics"]["captions"]["metrics"]["mean_R_at_1"]["value"],
    ]
    assert out["average"]["value"] == pytest.approx(sum(values) / 2)
    assert out["comparison"]["digits"]["top1"]["verdict"] in ("better", "worse", "not distinguishable")

    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") >= 8
    for markup in ("<b>nought", "<i>", "<u>", "<s>has", "<script"):
        assert markup not in html
    assert "&lt;b&gt;nought&lt;/b&gt;" in html
    assert "nobody &lt;s&gt;has&lt;/s&gt; it" in html

    assert run_command(command) == 0
    output = capsys.readouterr()
    assert "Average over 2 of 3 sets" in output.out
    assert "without never: nobody <s>has</s> it" in output.out
    assert sum("(reused)" in record.getMessage() for record in caplog.records) == 4
