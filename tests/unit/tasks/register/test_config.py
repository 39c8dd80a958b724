"""The `[register]` table."""

from typing import Any

import pytest
from pydantic import ValidationError

from tasks.register.config import RegisterConfig


@pytest.mark.parametrize(
    "values",
    [
        {"model_name": ""},
        {"model_name": "a/b"},
        {"model_name": "a:b"},
        {"model_name": "a' or name = 'b"},
        {"model_name": "m", "alias": "latest"},
        {"model_name": "m", "alias": "candidate"},
        {"model_name": "m", "alias": "v12"},
        {"model_name": "m", "floors": {"a/b": float("nan")}},
        {"model_name": "m", "floor": {}},
    ],
)
def test_config_raises_for_an_invalid_name_alias_or_floor(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RegisterConfig(**values)
