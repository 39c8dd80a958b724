"""What an evaluation's page says of a set: single prompts, few shots, the gap of a shift, the classes told worst."""

import re

from tasks.evaluate.report import _confusions
from tasks.evaluate.report_tables import details
from training.evaluation.intervals import proportion_record


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows[1:]]


def row(label: str, predicted: str | None, rank: int | None) -> dict[str, object]:
    return {"label_name": label, "predicted_name": predicted, "rank": rank, "status": "ok" if rank else "unreadable"}


def test_the_classes_told_worst_and_what_they_are_taken_for():
    rows = [row("cat", "cat", 1)] * 3 + [row("cat", "dog", 2)]
    rows += [row("fox", "dog", 2)] * 2 + [row("fox", "<cat>", 3), row("fox", None, None)]
    rows += [row("dog", "dog", 1)] * 5
    found = cells(_confusions(rows))
    assert [line[0] for line in found] == ["fox", "cat"]
    assert found[0][2:] == ["4", "dog (2), &lt;cat&gt; (1)"]
    assert found[1][2:] == ["4", "dog (1)"]
    assert _confusions(rows[-5:]) == ""


def test_single_prompts_are_shown_from_both_ends():
    prompts = [{"template": f"{{c}} {n}", **proportion_record(20 - n, 20, 0.5)} for n in range(9)]
    (title, body) = details({"each_template": prompts})
    assert "(40.00 points apart)" in title
    assert [line[0] for line in cells(body)] == [f"{{c}} {n}" for n in (0, 1, 2, 6, 7, 8)]
    assert len(cells(details({"each_template": prompts[:2]})[1])) == 2


def test_shots_and_shifts_are_told():
    shots = [{"shots": n, "train": 2 * n, "top1": proportion_record(n, 20, 0.5)} for n in (1, 2, 4, 8, 16)]
    shift = {"base": "imagenet", "base_value": 0.6, "value": 0.45, "gap": 0.15}
    said = "".join(details({"few_shot": shots, "robustness": shift}))
    assert [line[0] for line in cells(said)] == ["1", "2", "4", "8", "16"]
    assert "a gap of 15.00 points" in said
