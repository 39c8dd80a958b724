"""The installer of the Makefile: pip's settings hold for uv, whose messages and exit code are kept."""

import sys

from infra.install import install, read_settings, translate_settings

LISTING = r"""
:env:.find-links='/opt/wheels'
:env:.disable-pip-version-check='1'
global.constraint='/etc/pip/constraints.txt'
global.extra-index-url='https://one.example/simple\nhttps://two.example/simple'
global.find-links='/elsewhere'
global.index-url='https://all.example/simple'
install.index-url='https://mine.example/a=b'
install.no-index='true'
"""


def test_settings_of_pip_become_those_of_uv_with_pips_precedence():
    assert translate_settings(read_settings(LISTING)) == (
        ["--constraint", "/etc/pip/constraints.txt", "--no-index"],
        {
            "UV_DEFAULT_INDEX": "https://mine.example/a=b",
            "UV_FIND_LINKS": "/opt/wheels",
            "UV_INDEX": "https://one.example/simple https://two.example/simple",
            "UV_INDEX_STRATEGY": "unsafe-best-match",
        },
    )
    two = read_settings("global.find-links='/a /b'\nglobal.no-index='false'\n")
    assert translate_settings(two) == ([], {"UV_FIND_LINKS": "/a,/b"})
    assert translate_settings(read_settings("")) == ([], {})


def test_a_failed_install_prints_uvs_error_and_keeps_its_exit_code(capfd):
    lines = ["Resolved 2 packages", " - a==0.9", " + a==1.0", "error: no such package", ""]
    code = f"import sys; sys.stderr.write({chr(10).join(lines)!r}); sys.exit(3)"
    assert install([sys.executable, "-c", code], {}) == 3
    assert capfd.readouterr().err == "Resolved 2 packages\nerror: no such package\n"
