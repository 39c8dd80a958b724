"""Find the meaning of each config key: the docstring after its field, or that of its table."""

import ast
import copy
import inspect
import re
import textwrap
from functools import cache
from itertools import pairwise

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dataops.config import tables_of


def documented_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return copies of the fields by key, each with its docstring as description."""
    fields: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        fields[field.alias or name] = described = copy.copy(field)
        described.description = field.description or _attribute_docstrings(model).get(name)
    return fields


def table_summary(model: type[BaseModel]) -> str:
    """Return the first line of the model's docstring, without the name of the table that it begins with."""
    first = (model.__doc__ or "").strip().splitlines()[0]
    bare = re.sub(r"^(?:The |One )?`\[+[a-z_.]+\]+`(?: table)?: ", "", first)
    return bare[0].upper() + bare[1:]


def meaning(field: FieldInfo) -> str:
    """Return the docstring of a field, or the docstring of its table."""
    tables = tables_of(field.annotation)
    return field.description or (table_summary(tables[0]) if tables else "")


def all_tables(root: type[BaseModel]) -> list[type[BaseModel]]:
    """Return a model and all models in its fields, direct and indirect."""
    found = [root]
    for model in found:
        for field in model.model_fields.values():
            found += [inner for inner in tables_of(field.annotation) if inner not in found]
    return found


@cache
def _attribute_docstrings(model: type) -> dict[str, str]:
    """Return the docstrings of the attributes of a class and its bases.

    pydantic's `use_attribute_docstrings` would parse the sources at each start of the command, which takes 0.2 s.
    """
    found: dict[str, str] = {}
    for owner in model.__mro__[::-1]:
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
            for field, after in pairwise(tree.body if isinstance(tree, ast.ClassDef) else ()):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    match after:
                        case ast.Expr(ast.Constant(str(text))):
                            found[field.target.id] = inspect.cleandoc(text)
                        case _:
                            found.pop(field.target.id, None)
    return found
