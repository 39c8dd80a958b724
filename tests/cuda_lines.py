"""List the code that only a machine with CUDA runs and that no unit test executes with a fake: `make cuda-lines`.

It traces instructions, since a branch may be a part of a line, and writes the table of docs/train/gpu.md. Only unit tests
count, since those that start processes run them on a CPU.
"""

import ast
import re
import sys
import threading
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "train" / "gpu.md"
TABLE = re.compile(r"(?<=<!-- written by make cuda-lines -->\n).*?(?=<!-- end -->)", re.DOTALL)
_ON_GPU = ("device.type == 'cuda'", "torch.cuda.is_initialized()")
_ON_CPU = ("device.type != 'cuda'", "device.type == 'cpu'", "on_cpu")
_LEAVES = (ast.Return, ast.Raise, ast.Continue)
Span = tuple[tuple[int, int], tuple[int, int]]
"""Start and end as (line, column)."""


class Place(NamedTuple):
    """An expression, or a statement without a block."""

    path: str
    span: Span
    code: str


def find_places(root=ROOT):
    """Return the code of training/ and plugins/ that only CUDA runs: branches on the device, and calls of torch.cuda."""
    found = set()
    for path in (path for top in ("training", "plugins") for path in (root / top).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if "/tests/" not in name and re.search("cuda|cpu", source := path.read_text("utf-8")):
            for node in _visit_block(ast.parse(source).body, only=False):
                span = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
                found.add(Place(name, span, ast.unparse(node).partition("\n")[0]))
    return sorted(found)


def _visit_block(block, *, only):
    for node in block:
        yield from _visit(node, only=only)
        if isinstance(node, ast.If) and _side(node.test) is False and isinstance(node.body[-1], _LEAVES):
            only = True


def _visit(node, *, only):
    """Yield what only CUDA runs; `only` says that the node itself is such code."""
    if only and isinstance(node, ast.stmt) and not hasattr(node, "body"):
        yield node
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_of_cuda(node.func):
        yield node
    side = _side(node.test) if isinstance(node, ast.If | ast.IfExp) else None
    if isinstance(node, ast.IfExp) and side is not None:
        yield node.body if side else node.orelse
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And) and _side(node.values[0]):
        yield from node.values[1:]
    for field, value in ast.iter_fields(node):
        if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
            yield from _visit_block(value, only=only or side is (field == "body"))
        else:
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, ast.AST):
                    yield from _visit(inner, only=False)


def _is_of_cuda(function):
    return ast.unparse(function).startswith("torch.cuda.")


def _side(test):
    """Return whether a condition is true on a GPU alone, false on a GPU alone, or neither (None)."""
    text = ast.unparse(test)
    return True if any(one in text for one in _ON_GPU) else False if any(one in text for one in _ON_CPU) else None


class Tracer:
    """Remembers which places were executed."""

    def __init__(self, places):
        self.executed = set()
        self._by_file = {}
        for place in places:
            self._by_file.setdefault(str(ROOT / place.path), []).append(place)
        self._find = cache(self._find_uncached)

    def enter(self, frame, event, argument):
        """Trace the instructions of a function that has a place; for sys.settrace."""
        if frame.f_code.co_filename not in self._by_file or not any(self._find(frame.f_code)):
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame, event, argument):
        if event == "opcode":
            self.executed.update(self._find(frame.f_code)[frame.f_lasti // 2])
        return self._step

    def _find_uncached(self, code):
        """Return the places of each instruction."""
        of_file = self._by_file[code.co_filename]
        found = []
        for first, last, left, right in code.co_positions():
            known = None not in (first, last, left, right)
            found.append([p for p in of_file if known and p.span[0] <= (first, left) and (last, right) <= p.span[1]])
        return found


def format_row(place):
    """Return the row of a place in the table, without a line's end."""
    return f"| `{place.path}` | `{place.code.replace('|', '/')[:60]}` |"


def main(folders):
    """Run the unit tests of the folders, and write the table; return the tests' exit code."""
    places = find_places()
    tracer = Tracer(places)
    threading.settrace(tracer.enter)
    sys.settrace(tracer.enter)
    code = pytest.main(["-q", "-p", "no:cacheprovider", *folders])
    sys.settrace(None)
    rows = list(dict.fromkeys(format_row(one) for one in places if one not in tracer.executed))
    lead = f"{len(places)} places; a test executes " + (f"all but {len(rows)}:" if rows else "each of them.")
    table = "\n".join([lead, *(["", "| file | code |", "|---|---|", *rows] if rows else []), ""])
    PAGE.write_text(TABLE.sub(lambda _: table, PAGE.read_text("utf-8")), encoding="utf-8")
    sys.stdout.write(table)
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
