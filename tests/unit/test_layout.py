"""The layout of the repository: sizes of folders and modules, and what each folder says of itself."""

import ast
import re
import subprocess
import sys

import pytest

from dataops.home import CHECKOUT

ROOTS = ("flows", "infra", "tasks", "training", "dataops", "plugins", "benchmarks")
MAX_LINES = 600


def modules(*roots):
    command = ["git", "-C", str(CHECKOUT), "ls-files", "--cached", "--others", "--exclude-standard", "--", *roots]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = (CHECKOUT / name for name in listed.stdout.splitlines() if name.endswith(".py"))
    return sorted(path for path in paths if path.exists())


def test_module_has_at_most_600_lines():
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules(*ROOTS)}
    assert {path: size for path, size in sizes.items() if size > MAX_LINES} == {}


def test_each_folder_says_in_its_docstring_what_belongs_in_it():
    folders = {path.parent for path in modules(*ROOTS) if "tests" not in path.relative_to(CHECKOUT).parts}
    silent = [
        folder
        for folder in folders
        if not (folder / "__init__.py").is_file()
        or not ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_no_module_has_the_name_of_a_library_or_of_a_package_of_the_standard_library():
    # `site` and `trace` are a source kind and two commands; nobody imports the standard library's.
    allowed = {"site", "trace", "gc"}
    ours = {path.stem for path in modules(*ROOTS)} - {"__init__"}
    used_names = set(sys.stdlib_module_names) | {
        "ray",
        "onnx",
        "dns",
        "mlflow",
        "prefect",
        "torch",
        "jinja2",
        "scrapy",
        "PIL",
    }
    assert ours & used_names <= allowed


def test_unit_tests_mirror_the_source_tree():
    unmatched = []
    for path in modules("tests/unit"):
        folder = path.parent.relative_to(CHECKOUT / "tests" / "unit")
        if not (CHECKOUT / folder).is_dir():
            unmatched.append(str(path.relative_to(CHECKOUT)))
    assert unmatched == []


# Tests -----------------------------------------------------------------------------------------------------------------


MAY_BE_FOREIGN = re.compile(
    r"setattr\(|import[^\n]*(?:benchmarks|test_|conftest)|from[^\n]*(?:benchmarks|test_)|^ +test_\w+,", re.M
)
"""Only files that have such a text are parsed."""


def foreign_names(tree):
    """Yield what a test imports of other tests and benchmarks, and the private names and constants of ours it replaces."""
    ours = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            module = getattr(node, "module", None)
            for name in node.names:
                path = f"{module}.{name.name}" if module else name.name
                ours[name.asname or (name.name if module else name.name.partition(".")[0])] = path
                if path.startswith("benchmarks.") or re.search(r"\.(test_\w+|conftest)(\.|$)", path):
                    yield f"{node.lineno} imports {path}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr" and len(node.args) > 1:
            target = ast.unparse(node.args[0])
            if target[0] in "'\"":
                owner, _, name = target[1:-1].rpartition(".")
            else:
                owner, name = ours.get(target.partition(".")[0], ""), str(getattr(node.args[1], "value", ""))
            if owner.partition(".")[0] in ROOTS and re.fullmatch(r"_[a-zA-Z]\w*|[A-Z][A-Z0-9_]+", name):
                yield f"{node.lineno} replaces {owner}.{name}"


def test_tests_import_no_other_test_and_replace_no_constant():
    found = [
        f"{path.relative_to(CHECKOUT)}:{what}"
        for path in modules("tests", "plugins")
        if "tests" in path.relative_to(CHECKOUT).parts and MAY_BE_FOREIGN.search(source := path.read_text("utf-8"))
        for what in foreign_names(ast.parse(source))
    ]
    assert found == []
