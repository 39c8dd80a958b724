import pytest
from pydantic import ValidationError

from tasks.checks.config import ChecksConfig


def test_level_of_an_unknown_check_is_refused_with_the_known_ones():
    with pytest.raises(
        ValidationError,
        match=r"(?s)^.*\nlevels\n.*no such check: max_hots_share; the checks are .* did you mean max_host_share\?",
    ):
        ChecksConfig(levels={"max_hots_share": "block"})
    assert ChecksConfig(levels={"max_host_share": "block"}).level_of("max_host_share") == "block"


@pytest.mark.parametrize("values", [{"max_host_share": 1.5}, {"min_rows": -1}, {"max_rows_ratio": float("nan")}])
def test_bound_outside_its_range_is_refused(values):
    with pytest.raises(ValidationError):
        ChecksConfig.model_validate(values)
