"""The audit trail of a registered model's aliases, without a server."""

from types import SimpleNamespace
from typing import Any

import pytest

from tasks.register import promotion
from tasks.register.promotion import AliasMove

FIELDS = ("alias", "before", "after", "by", "why")


@pytest.mark.parametrize(
    "values",
    [
        ("champion", None, "1", "run demo-20261127T065210-e44f", "gate passed"),
        ("champion", "12", "3", "ann on host", "slow: 3 to 4 times, by her count: no"),
        ("candidate", "1", "2", "run x", "gate refused: a/top1 is 0.03, floor 0.9\nsecond line"),
    ],
)
def test_trail_is_read_as_it_was_written(values: tuple[Any, ...]):
    move = AliasMove(*values)
    (read,) = promotion._parse_trail({"pairmill": "CLIP", "audit.20261127T065703.347011Z-ee42": str(move)})
    assert read == {"time": "20261127T065703.347011Z", **dict(zip(FIELDS, values, strict=True))}


class Registry:
    def __init__(self, description: str, tags: dict[str, str]):
        self.description, self.tags = description, tags

    def get_registered_model(self, _: str) -> SimpleNamespace:
        return SimpleNamespace(description=self.description, tags=self.tags)

    def update_registered_model(self, _: str, description: str) -> None:
        self.description = description


def describe(description: str, moves: int = 7) -> str:
    move = AliasMove("champion", "1", "2", "run x", "<b>gate</b> passed")
    tags = {f"audit.2026112{n}T065703.347011Z-ee42": str(move) for n in range(moves)}
    registry: Any = Registry(description, tags)
    promotion.describe_model(registry, "demo")
    return registry.description


def test_description_shows_the_newest_moves_as_text():
    lines = describe("").splitlines()
    assert lines[0].startswith("CLIP models made by pairmill. Each version's page has its results")
    moves = [line for line in lines if line.startswith("- ")]
    assert [line[:23] for line in moves] == [f"- 2026-11-2{day} 06:57 UTC," for day in (6, 5, 4, 3, 2)]
    assert r"\<b\>gate\</b\> passed" in moves[0]
