"""Tables of an evaluation's page: single prompts, few shots, the gap of a shift, the worst classes."""

from tasks.evaluate.report import describe_details, find_confusions
from training.evaluation.intervals import proportion_record


def row(label: str, predicted: str | None, rank: int | None) -> dict[str, object]:
    return {"label_name": label, "predicted_name": predicted, "rank": rank, "status": "ok" if rank else "unreadable"}


def test_find_confusions_lists_the_worst_classes_and_their_predictions():
    rows = [row("cat", "cat", 1)] * 3 + [row("cat", "dog", 2)]
    rows += [row("fox", "dog", 2)] * 2 + [row("fox", "<cat>", 3), row("fox", None, None)]
    rows += [row("dog", "dog", 1)] * 5
    worst, positives = find_confusions(rows)
    assert [line[0] for line in worst.rows] == ["fox", "cat"]
    assert worst.rows[0][2:] == ["4", "dog (2), <cat>"]
    assert worst.rows[1][2:] == ["4", "dog"]
    assert positives.rows == [["dog", "3", "62.50%", "fox (2), cat"], ["<cat>", "1", "0.00%", "fox"]]
    assert find_confusions(rows[-5:]) == []


def test_find_confusions_ranks_single_images_where_each_class_has_one():
    rows = [row("cat", "cat", 1), row("elk", None, None)]
    rows += [row(f"fox {n}", "bin", n + 2) for n in range(12)]
    worst, positives = find_confusions(rows)
    assert "one image" in worst.title
    assert worst.rows[:2] == [["fox 11", "13", "bin"], ["fox 10", "12", "bin"]]
    assert len(worst.rows) == 10
    assert positives.rows == [["bin", "12", "0.00%", "fox 0, fox 1, fox 2, fox 3, …"]]


def test_describe_details_shows_shots_and_shifts():
    shots = [{"shots": n, "train": 2 * n, "top1": proportion_record(n, 20, 0.5)} for n in (1, 2, 4, 8, 16)]
    shift = {"base": "imagenet", "base_value": 0.6, "value": 0.45, "gap": 0.15}
    shift_section, shots_section = describe_details({"few_shot": shots, "robustness": shift})
    assert [line[0] for line in shots_section.rows] == ["1", "2", "4", "8", "16"]
    assert "a gap of 15.00 points" in shift_section.sentences[0]
