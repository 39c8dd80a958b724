from pathlib import Path

import numpy as np
import pytest

from dataops.kernels.characters import characters
from dataops.kernels.table_cache import Tables, load_or_build


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "caches"))
    return []


def ask(builds: list[str], *sources: Path | str) -> Tables:
    def build() -> Tables:
        builds.append("built")
        return {"a": np.arange(5, dtype=np.uint8), "b": np.eye(3)}

    return load_or_build("x", sources, build)


def test_table_is_built_once_until_a_source_changes(builds: list[str], tmp_path: Path) -> None:
    source = tmp_path / "code.py"
    source.write_text("one")
    first, second = ask(builds, source, "1.0"), ask(builds, source, "1.0")
    assert len(builds) == 1
    for name, table in first.items():
        assert second[name].dtype == table.dtype
        assert second[name].tolist() == table.tolist()
        assert second[name].flags.writeable, "compiled code takes no other"
    source.write_text("two")
    ask(builds, source, "1.0")
    ask(builds, source, "1.1")
    assert len(builds) == 3


@pytest.mark.parametrize("damage", ["emptied", "cut", "gone", "pickle"])
def test_table_is_rebuilt_when_damaged(builds: list[str], tmp_path: Path, damage: str) -> None:
    ask(builds)
    (path,) = (tmp_path / "caches" / "pairmill" / "tables").glob("*/b.npy")
    if damage == "pickle":
        np.save(path, np.array([{}], object), allow_pickle=True)
    elif damage == "gone":
        path.unlink()
        path.with_name("a.npy").unlink()
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "emptied" else 150])
    assert ask(builds)["b"].tolist() == np.eye(3).tolist()
    assert len(builds) == 2
    ask(builds)
    assert len(builds) == 2


def test_table_is_built_each_time_without_a_cache_folder(builds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/nowhere")
    ask(builds)
    ask(builds)
    assert len(builds) == 2


def test_table_is_not_read_where_others_can_write(builds: list[str], tmp_path: Path) -> None:
    ask(builds)
    (tmp_path / "caches" / "pairmill" / "tables").chmod(0o777)
    ask(builds)
    assert len(builds) == 2


def test_character_table_is_the_same_when_read_from_disk(builds: list[str]) -> None:
    characters.cache_clear()
    built = characters()
    characters.cache_clear()
    for one, other in zip(built, characters(), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    characters.cache_clear()
