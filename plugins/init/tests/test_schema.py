import json

import jsonschema
import pytest

from dataops.config import tables_of
from flows.config import RunConfig, validate_values
from plugins.init.schema import config_schema
from tasks.extract.config import SOURCE_KINDS

WARC = {"kind": "warc", "paths": ["a.warc.gz"]}


@pytest.fixture(scope="module")
def schema():
    return config_schema()


def test_schema_is_a_schema_and_every_key_has_a_meaning(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    tables = {"": schema, **schema["$defs"]}
    silent = [
        f"{table}.{name}"
        for table, described in tables.items()
        for name, key in described["properties"].items()
        if name not in ("kind", "source") and len(key.get("description", "")) < 10
    ]
    assert silent == []
    text = json.dumps(schema)
    assert '"null"' not in text
    assert '"title": "Min Chars"' not in text


VALUES = [True, 3, "3", "yes", "", 1.5, -1, [], [1], ["a"], [[1, "a"]], {}, {"zz": 1}, [{"zz": 1}]]


TABLES = {
    "": RunConfig,
    **{f"source {kind}": table for kind, table in SOURCE_KINDS.items()},
}
for name, field in RunConfig.model_fields.items():
    if name != "source" and (tables := tables_of(field.annotation)):
        TABLES[field.alias or name] = tables[0]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_what_the_schema_refuses_the_run_refuses_too(schema, value):
    validator = jsonschema.Draft202012Validator(schema)
    for where, model in TABLES.items():
        keys = [field.alias or name for name, field in model.model_fields.items() if not tables_of(field.annotation)]
        wrong = dict.fromkeys(keys, value)
        values = {"name": "a", "source": dict(WARC)}
        table, _, kind = where.partition(" ")
        if kind:
            values["source"] = {**wrong, "kind": kind}
        elif table:
            values[table] = wrong
        else:
            values |= wrong
        described = schema if model is RunConfig else schema["$defs"][model.__name__]
        marked = {key for key in keys if not validator.evolve(schema=described["properties"][key]).is_valid(value)}
        path = f"{table}." if table else ""
        refused = {line.partition(": ")[0].removeprefix(path).partition(".")[0] for line in validate_values(values)[1]}
        assert marked - refused - {"kind"} == set(), where
