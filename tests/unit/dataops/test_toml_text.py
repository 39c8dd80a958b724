"""TOML from others costs bounded time and depth, wherever it is read."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.errors import ConfigError
from dataops.toml_text import MAX_CHARS, format_key, format_value, parse_toml
from flows.config import config_name, load_config
from tests.costs import bounded
from training.evaluation.suite import load_suite

HOSTILE = {
    "nested arrays": "a = " + "[" * 50_000,
    "closed arrays": "a = " + "[" * 300 + "]" * 300,
    "inline tables": "a = " + "{a=" * 300 + "1" + "}" * 300,
    "a dotted key": "a." * 100_000 + "a = 1",
    "a dotted key with spaces": "a . " * 50_000 + "a = 1",
    "a quoted dotted key": "\"a\".'b'." * 30_000 + "a = 1",
    "a dotted table": "[" + "a." * 100_000 + "a]",
    "dotted keys in an inline table": "x = {" + "a." * 100_000 + "a = 1}",
    "numbers with dots": "0x." * 80_000,
    "too long": "#" * (MAX_CHARS + 1),
    "an integer of many digits": "a = " + "1" * 100_000,
    "an octal integer of many digits": "a = [0o" + "7" * 100_000 + "]",
    "a hexadecimal integer of 65 bits": "[a]\nb = { c = [0x8000000000000000] }",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_refused_in_linear_time(text):
    message = r"nested over 64 levels|over 1,048,576 characters|integer of over 64 bits"
    with bounded(10), pytest.raises(tomllib.TOMLDecodeError, match=message):  # minutes without the limits
        parse_toml(text)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("read", [load_config, config_name, load_suite])
def test_each_reader_of_toml_refuses_it(read, text, tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"a\.toml"):
        read(path)


TEXTS = st.text(st.characters(codec="utf-8"))


@given(
    st.recursive(
        st.booleans()
        | st.integers(-(1 << 63), (1 << 63) - 1)
        | st.floats(allow_nan=False)
        | TEXTS
        | st.dates()
        | st.datetimes(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=8,
    )
)
def test_written_value_is_read_back(value):
    assert parse_toml(f"\ufeff{format_key('a.b')} = {format_value(value)}") == {"a.b": value}
