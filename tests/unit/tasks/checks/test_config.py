import pytest
from pydantic import ValidationError

from tasks.checks.config import ChecksConfig


def test_level_of_an_unknown_check_is_refused_with_the_known_ones():
    with pytest.raises(ValidationError) as raised:
        ChecksConfig.model_validate({"levels": {"max_hots_share": "block"}})
    (error,) = raised.value.errors()
    assert error["loc"] == ("levels",)
    assert "no such check: max_hots_share; the checks are min_rows, " in error["msg"]
    assert error["msg"].endswith("; did you mean max_host_share?")


@pytest.mark.parametrize("values", [{"max_host_share": 1.5}, {"min_rows": -1}, {"min_rows_ratio": float("nan")}])
def test_bound_outside_its_range_is_refused(values):
    with pytest.raises(ValidationError):
        ChecksConfig.model_validate(values)
