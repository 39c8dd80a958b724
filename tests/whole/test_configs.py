"""Each config that is shipped is valid for the schema and for a run, and printed as the same config."""

import tomllib

import jsonschema
import polars as pl
import pytest

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from flows.config import RunConfig, load_config
from plugins.init.config import format_line, resolve_config
from plugins.init.schema import config_schema


@pytest.mark.parametrize("path", sorted((CHECKOUT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_config_is_valid_and_printed_as_the_same_config(path, tmp_path):
    values = tomllib.loads(path.read_text("utf-8"))
    assert list(jsonschema.Draft202012Validator(config_schema()).iter_errors(values)) == []
    config, tables = resolve_config(path, ())
    text = "\n".join(line for table in tables for line in (table.header, *map(format_line, table.keys)))
    assert RunConfig.model_validate(tomllib.loads(text)) == config

    # Loaded by a run it needs the paths and IP addresses of a machine.
    (tmp_path / "suite.toml").write_text('name = "s"\n[[task]]\nname = "set"\nkind = "classification"\nroot = "set"\n')
    (tmp_path / "set" / "test" / "one").mkdir(parents=True)
    (tmp_path / "set" / "test" / "one" / "0.png").write_bytes(b"")
    settings = [f"store.uri={tmp_path}/store", f"evaluate.suite={tmp_path}/suite.toml", f"evaluate.data={tmp_path}"]
    if "paths" in values["source"]:
        file = tmp_path / {"pairs": "a.tsv", "webdataset": "a.tar"}.get(values["source"]["kind"], "a.warc.gz")
        file.touch()
        settings.append(f'source.paths=["{file}"]')
    if path.stem.startswith("demo"):
        pl.DataFrame({"query": ["kite"]}).write_parquet(tmp_path / "queries.parquet")
        settings.append(f"filter.balance.queries={tmp_path}/queries.parquet")
        settings.append('download.connect_to={"openmoji.pairmill.test" = "127.0.0.1:8123"}')  # as `pairmill demo` does
        settings.append("register.floors={}")  # of tasks of its own suite
    if "path" in values["train"].get("image_init", {}):  # weights of one's own; plugins/towers trains it with tiny ones
        with pytest.raises(ConfigError, match=r"weights/.*cannot be read|found no weights"):
            load_config(path, settings)
        return
    assert load_config(path, settings).name
