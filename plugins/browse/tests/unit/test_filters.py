import pytest

from dataops.errors import ConfigError
from plugins.browse.database import Database
from plugins.browse.filters import (
    condition,
    parse_filter,
)

COLUMNS = {"name": "VARCHAR", "size": "INTEGER", "score": "FLOAT", "ids": "UINTEGER[]", "boxes": "FLOAT[][]"}
TABLE = """CREATE TABLE t AS SELECT * FROM (VALUES
    (0, 'Dog', 1, 0.3::FLOAT, [1, 2]::UINTEGER[], [[0.5]]::FLOAT[][]),
    (1, '50% dog_', -2, NULL, NULL, NULL),
    (2, NULL, NULL, 0.5::FLOAT, []::UINTEGER[], []),
    (3, 'cat''s "x"', 1, -1::FLOAT, [3]::UINTEGER[], NULL)) AS v(n, name, size, score, ids, boxes)"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    database = Database([], tmp_path_factory.mktemp("filters"))
    database.run(TABLE)
    return database


def matched(table, text):
    found = condition(parse_filter(text, COLUMNS), COLUMNS)
    return [row["n"] for row in table.rows(f"SELECT n FROM t {found.where} ORDER BY n", found.parameters)]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("name~is~Dog", [0]),
        ("name~not~Dog", [1, 2, 3]),
        ("name~has~dog", [0, 1]),
        ("name~has~%", [1]),  # no wildcard
        ("name~has~g_", [1]),
        ("name~without~DOG", [2, 3]),
        ("name~starts~50%", [1]),
        ('name~is~cat\'s "x"', [3]),
        ("name~is~x' OR 1=1 --", []),
        ("name~none~ignored", [2]),
        ("name~any~", [0, 1, 3]),
        ("size~is~1", [0, 3]),
        ("size~not~1", [1, 2]),
        ("size~min~-2", [0, 1, 3]),
        ("size~max~0.5", [1]),
        ("score~is~0.3", [0]),  # of 32 bits
        ("score~min~0.3", [0, 2]),
        ("ids~has~2", [0]),
        ("ids~without~2", [1, 2, 3]),
        ("boxes~none~", [1, 3]),
        ("name~is~a~b", []),  # the value may have the separator
    ],
)
def test_filter_finds_rows(table, text, rows):
    assert matched(table, text) == rows


@pytest.mark.parametrize(
    "text",
    [
        "nothing~is~1", 'name"; DROP TABLE t; --~is~1', "name", "name~min~1", "name~is;~1", "size~is~", "size~is~one",
        "size~min~nan", "size~max~inf", "size~is~1e300", "boxes~has~1", "ids~has~x", "name~is~" + "x" * 1001, "",
    ],
)  # fmt: skip
def test_other_columns_operators_and_values_are_refused(text):
    with pytest.raises(ConfigError):
        parse_filter(text, COLUMNS)
