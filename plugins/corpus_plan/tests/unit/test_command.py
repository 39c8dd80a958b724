import pytest

from flows.app import run_command


def test_a_corpus_of_ten_times_as_many_pairs_takes_ten_times_the_core_hours(read_json):
    assert run_command(["plan-corpus", "1.28e8", "1.28e9", "--json"]) == 0
    small, large = read_json()["plans"]
    assert large["core_hours"] == pytest.approx(10 * small["core_hours"], rel=0.1)
    assert [stage["stage"] for stage in large["stages"]] == ["extract", "filter", "download", "curate", "pack"]
    assert large["stages"][0]["rows"] == 1.28e9
    assert large["dollars"]["requests"] > small["dollars"]["requests"] > 0
    assert [run_command(["plan-corpus", number]) for number in ("nan", "inf", "1e300", "-1")] == [2] * 4
    assert [run_command(["plan-corpus", "1e9", "--cores", cores]) for cores in ("0", "9" * 400)] == [2] * 2
