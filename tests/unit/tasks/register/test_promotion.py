"""The audit trail of a registered model's aliases, without a server."""

from types import SimpleNamespace
from typing import Any

from tasks.register.gate import AliasMove, describe_model


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
    describe_model(registry, "demo")
    return registry.description


def test_description_shows_the_newest_moves_as_text():
    lines = describe("").splitlines()
    assert lines[0].startswith("CLIP models made by pairmill. Each version's page has its results")
    moves = [line for line in lines if line.startswith("- ")]
    assert [line[:23] for line in moves] == [f"- 2026-11-2{day} 06:57 UTC," for day in (6, 5, 4, 3, 2)]
    assert r"\<b\>gate\</b\> passed" in moves[0]
