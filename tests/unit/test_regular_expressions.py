"""Each regular expression takes time that is linear in the text, or is listed with the reason why its text is bounded.

Worst cases are generated from the parsed expression: each repeat is made as long as possible, with a text before and after
it that makes the match fail late. A backtracking search of N characters takes N or N**2 or more steps; at 30,000 characters
these are less than a thousandth of a second, or a third of a second and more.
"""

import ast
import re
import signal
import time
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("dataops", "training", "tasks", "infra", "flows", "plugins")
CHARS = 30_000
SECONDS = 0.15
"""CPU time for CHARS characters that any search may take; a longer one must be linear. Most need less than 0.001 s, and a
quadratic one over 0.3 s."""
SEARCHES = frozenset({"search", "finditer", "findall", "sub", "subn", "split"})
CALL = re.compile(r"\bre\.\w+\(")
"""A call of the module: only files that have one are parsed."""

BOUNDED = {
    "dataops/redaction.py _PASSWORD": "values of the environment of this process",
    "tasks/files/s3_file.py _GLOB": "a glob of the config",
}
"""Expressions that may take longer, each with the reason why their text does not make them."""


class Expression(NamedTuple):
    """A regular expression in the source, and whether it is searched for anywhere in a text."""

    where: str
    name: str
    """The file, and the variable that holds it."""
    pattern: re.Pattern[Any]
    is_searched: bool


def find_expressions():
    """Return the literal expressions of all `re` calls in the source."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "tests" not in path.relative_to(ROOT).parts and CALL.search(source := path.read_text()):
                found += _find_in_module(path, source, ast.parse(source))
    return found


def _find_in_module(path, source, tree):
    strings = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    methods = {node.value: node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    searched = {ast.unparse(value) for value, method in methods.items() if method in SEARCHES}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "re"):
            continue
        if node.func.attr not in SEARCHES | {"compile", "match", "fullmatch"}:
            continue
        text = _evaluate(node.args[0], strings)
        flags = next((a for a in [*node.args[1:], *(k.value for k in node.keywords if k.arg == "flags")]
                      if isinstance(a, (ast.Attribute, ast.BinOp)) and "re." in ast.unparse(a)), None)  # fmt: skip
        if text is None:
            continue
        pattern = re.compile(text, eval(ast.unparse(flags), {"re": re}) if flags else 0)
        is_searched = node.func.attr in SEARCHES
        used = methods.get(node)
        name = next((n for n, value in strings.items() if value is node or getattr(value, "value", None) is node), None)
        if node.func.attr == "compile":
            # An expression without a name may be any value of the file that has none.
            found = [one for one in searched if one == name or (name is None and one not in strings)]
            is_searched = used in SEARCHES if used else bool(found)
        file = path.relative_to(ROOT)
        yield Expression(f"{file}:{node.lineno}", f"{file} {name}", pattern, is_searched)


def _evaluate(node, strings):
    """Return the value of a literal, also of one made of parts; parts that are not literals count as `x`."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, (str, bytes)) else str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.FormattedValue) else p for p in node.values]
        values = [_evaluate(p, strings) for p in parts]
        return "".join(value if isinstance(value, str) else "x" for value in values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = (_evaluate(side, strings) for side in (node.left, node.right))
        return left + right if isinstance(left, str) and isinstance(right, str) else None
    if isinstance(node, ast.Name) and node.id in strings:
        return _evaluate(strings[node.id], strings)
    return None


# Worst cases ------------------------------------------------------------------------------------------------------------

PARSER, OP = import_module("re._parser"), import_module("re._constants")
REPEATS = (OP.MAX_REPEAT, OP.MIN_REPEAT, OP.POSSESSIVE_REPEAT)
SUFFIXES = ("", "\x00", "!", "\n", " x")
CANDIDATES = "aA0 -_.:;,/<>=\"'\t\n\r\x00é!@#%&*+?^$|~`(){}[]\\b"


def sample(node, width=1):
    """Return a short text that a parsed expression matches, or nearly."""
    text = ""
    for op, value in node:
        if op is OP.LITERAL:
            text += chr(value)
        elif op is OP.NOT_LITERAL:
            text += "a" if value != ord("a") else "b"
        elif op is OP.ANY:
            text += "a"
        elif op is OP.IN:
            text += _sample_set(value)
        elif op in REPEATS:
            text += sample(value[2]) * max(value[0], min(width, value[1]))
        elif op is OP.SUBPATTERN:
            text += sample(value[3])
        elif op is OP.ATOMIC_GROUP:
            text += sample(value)
        elif op is OP.BRANCH:
            text += sample(value[1][0])
    return text


def _sample_set(items):
    negated = bool(items) and items[0][0] is OP.NEGATE
    for op, value in items:
        if not negated and op is OP.LITERAL:
            return chr(value)
        if not negated and op is OP.RANGE:
            return chr(value[0])
        if not negated and op is OP.CATEGORY:
            return {OP.CATEGORY_DIGIT: "0", OP.CATEGORY_SPACE: " ", OP.CATEGORY_WORD: "a"}.get(value, "!")
    excluded = {value for op, value in items if op is OP.LITERAL}
    return next(c for c in CANDIDATES if ord(c) not in excluded)


def worst_cases(parsed):
    """Yield start, repeated unit and end of texts on which a backtracking match may be slow."""
    for prefix, body in _repeats(parsed, ""):
        for alternative in {body, *(_branches(parsed))}:
            for unit in {alternative, prefix + alternative, prefix or alternative}:
                if unit:
                    yield from ((start, unit, end) for start in {"", prefix} for end in SUFFIXES)


def _repeats(parsed, prefix):
    """Yield the text before each long repeat, and the text that it repeats."""
    for op, value in parsed:
        if op in REPEATS:
            if value[1] > 50:
                yield prefix, sample(value[2])
            yield from _repeats(value[2], prefix)
        elif op is OP.SUBPATTERN:
            yield from _repeats(value[3], prefix)
        elif op is OP.ATOMIC_GROUP:
            yield from _repeats(value, prefix)
        elif op is OP.BRANCH:
            for branch in value[1]:
                yield from _repeats(branch, prefix)
        elif op in (OP.ASSERT, OP.ASSERT_NOT):
            yield from _repeats(value[1], prefix)
        if op not in (OP.ASSERT, OP.ASSERT_NOT):
            prefix += sample([(op, value)])


def _branches(parsed):
    texts = set()
    for op, value in parsed:
        if op is OP.BRANCH:
            texts |= {sample(branch) for branch in value[1]}
        elif op in REPEATS:
            texts |= _branches(value[2])
        elif op is OP.SUBPATTERN:
            texts |= _branches(value[3])
    return {text for text in texts if text}


@contextmanager
def stop_after(seconds):
    """Raise TimeoutError in a match that takes longer: `re` checks for signals while it backtracks."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def find_slow_text(expression):
    """Return a text on which an expression is slower than linear; None if there is none."""
    pattern = expression.pattern
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    for start, unit, end in dict.fromkeys(worst_cases(PARSER.parse(source, pattern.flags))):
        short, text = (start + unit * (chars // len(unit)) + end for chars in (CHARS // 4, CHARS))
        for _ in range(2):  # the timer counts other threads of the process too
            with suppress(TimeoutError):
                with stop_after(SECONDS):
                    took = _search(expression, short)
                with stop_after(max(SECONDS, 8 * took)):  # four times the text: 16 times as long if quadratic
                    if took > SECONDS / 500:
                        _search(expression, text)
                break
        else:
            return text
    return None


def _search(expression, text):
    """Search a text, and return the CPU time in seconds."""
    subject = text if isinstance(expression.pattern.pattern, str) else text.encode("latin-1", "replace")
    started = time.thread_time()
    if expression.is_searched:
        for _ in expression.pattern.finditer(subject):
            pass
    else:
        expression.pattern.fullmatch(subject)
        expression.pattern.match(subject)
    return time.thread_time() - started


def test_expressions_take_linear_time_on_their_worst_cases():
    expressions = {(e.name, e.pattern, e.is_searched): e for e in find_expressions()}.values()
    assert len(expressions) > 100
    known = {name for name in BOUNDED if (ROOT / name.split()[0]).exists()}  # a plugin may be absent
    assert known <= {expression.name for expression in expressions}
    slow = {e.where: text for e in expressions if e.name not in BOUNDED and (text := find_slow_text(e))}
    assert {where: text[:40] for where, text in slow.items()} == {}, f"over {SECONDS} s for {CHARS:,} characters"


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "a*b", r"<!--.*?-->", r"\s+$", r"(\w+\s?)*:"])
def test_the_check_finds_slow_expressions(pattern):
    assert find_slow_text(Expression("here", "here", re.compile(pattern), is_searched=True)) is not None
