"""A URL is found in the spellings of the programs that write it."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.trace.targets import Target, parse_target

PROGRAMS = {  # characters that each leaves as they are in a path
    "Python, PHP": "",
    "encodeURIComponent": "!*'()",
    "MediaWiki": "!*();:@$,",
    "Firefox, copied": "!*;:@&=+$,",
    "a browser": "!*'();:@&=+$,",
}
PATHS = st.text(st.sampled_from("ab~'()[]!*$&+,:;=@ %é-_"), max_size=12)


@given(PATHS, *[st.sampled_from(sorted(PROGRAMS))] * 2, *[st.sampled_from(["~", "%7E"])] * 2, st.booleans())
def test_a_url_of_one_program_is_found_as_another_writes_it(path, first, second, tilde, other, is_lower):
    def write(program, tilde):
        return f"http://a.example/{quote(f'x{path}', PROGRAMS[program] + '/').replace('~', tilde)}?q=~(1)"

    asked, stored = parse_target(write(first, tilde)), parse_target(write(second, other)).value
    assert (re.sub("%..", lambda escape: escape[0].lower(), stored) if is_lower else stored) in asked.spellings


@pytest.mark.parametrize(
    "target",
    [
        parse_target("http://a.example/1.jpg?q=(~)"),
        parse_target("a.example"),
        Target("phash", "0" * 16, 4),
        Target("uid", "0" * 32),
    ],
)
def test_what_has_one_spelling(target):
    assert target.spellings == {target.value}
