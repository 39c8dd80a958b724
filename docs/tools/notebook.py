"""Execute a notebook in the current folder and store its outputs: python -m docs.tools.notebook NOTEBOOK.

It needs no Jupyter: a cell is executed as Jupyter does, and its output is the text of its last expression. What a cell
writes on standard error, such as the progress of a run, is not stored.
"""

import ast
import json
import sys
from pathlib import Path
from typing import Any

NOTEBOOK = Path("docs") / "start" / "notebook.ipynb"


def execute(notebook: dict[str, Any]) -> None:
    """Execute the code cells in order, in one namespace, and replace their outputs."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body[-1] if tree.body else None
        last = last if isinstance(last, ast.Expr) else None
        tree.body = tree.body[:-1] if last else tree.body
        exec(compile(tree, f"cell {number}", "exec"), names)
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names) if last else None
        cell |= {"execution_count": number, "outputs": [] if value is None else [_output(value, number)]}


def texts(notebook: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the text of the output of each code cell, and its tags."""
    return [
        ("".join(line for output in cell["outputs"] for line in output["data"]["text/plain"]), cell["metadata"]["tags"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


def _output(value: object, number: int) -> dict[str, Any]:
    lines = repr(value).splitlines(keepends=True)
    return {
        "data": {"text/plain": lines},
        "execution_count": number,
        "metadata": {},
        "output_type": "execute_result",
    }


def main() -> None:
    """Execute the notebook of the command line."""
    path = Path(sys.argv[1])
    notebook = json.loads(path.read_text(encoding="utf-8"))
    execute(notebook)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
