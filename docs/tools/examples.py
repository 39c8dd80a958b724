"""Find the examples of Markdown pages: commands in shell blocks, and TOML blocks."""

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

_BLOCK = re.compile(
    r"^(?P<indent> {0,3})```(?P<language>\w+)\n(?P<content>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_SHELL = frozenset({"sh", "bash", "shell"})
_REDIRECTION = frozenset("<>")
_END = frozenset("();|&") | _REDIRECTION
"""Characters of the tokens that are no words: operators, which end a command, and redirections."""
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


class Example(NamedTuple):
    """A fenced block of a page."""

    language: str
    content: str


def find_examples(text: str) -> Iterator[Example]:
    """Yield the fenced blocks of a page that have a language."""
    for found in _BLOCK.finditer(text):
        yield Example(found["language"], found["content"])


def list_commands(text: str) -> list[list[str]]:
    """Return the words of each command in the shell blocks of a page, without assignments and redirections."""
    return [words for example in find_examples(text) if example.language in _SHELL for words in _split(example.content)]


def _split(script: str) -> Iterator[list[str]]:
    for line in script.replace("\\\n", " ").splitlines():
        tokens = shlex.shlex(line, posix=True, punctuation_chars=True)
        tokens.whitespace_split = True
        words: list[str] = []
        before = ""
        for token in [*tokens, ";"]:
            if set(token) <= _END:
                if words and not set(token) <= _REDIRECTION:
                    yield words
                    words = []
            elif not set(before) & _REDIRECTION and (words or not _ASSIGNMENT.fullmatch(token)):
                words.append(token)
            before = token if set(token) <= _END else ""
