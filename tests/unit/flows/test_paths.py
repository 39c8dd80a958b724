"""Relative paths of a config start at its folder, and those of a run record at the project's: each field of the type."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from dataops.config import PATH, RECORDED, tables_of
from flows.config import RunConfig, load_config
from tasks.extract.config import SOURCE_KINDS

INSIDE = re.compile(
    r"inside the package or folder|relative to the folder|columns? of|keys of the JSON|rows_per_part|URL of the folder"
)
"""Descriptions of names inside a folder that another field names, and of what is no path."""


def walk(model, seen):
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        yield f"{model.__name__}.{name}", field
        for table in tables_of(field.annotation):
            yield from walk(table, seen)


def is_path(annotation):
    return annotation in PATH or any(map(is_path, (*get_args(annotation), *getattr(annotation, "__metadata__", ()))))


SEEN = set()
FIELDS = dict(one for model in (RunConfig, *SOURCE_KINDS.values()) for one in walk(model, SEEN))
PATHS = {
    name: field for name, field in FIELDS.items() if is_path(field.annotation) or any(map(is_path, field.metadata))
}


def test_fields_that_name_files_have_the_type_of_paths():
    texts = {name: field for name, field in FIELDS.items() if "str" in str(field.annotation) or "Path" in str(field)}
    wrong = [
        name
        for name, field in texts.items()
        if name not in PATHS
        and re.search(r"\b([Ff]iles?|[Ff]olders?|s3://|[Pp]aths?)\b", field.description or "")
        and not INSIDE.search(field.description or "")
    ]
    assert not wrong


def validate(field, text, folder):
    """Return the validated value of a field that has a text, in whatever form the field takes."""
    adapter = TypeAdapter(field.rebuild_annotation())
    for form in (text, [text], {"name": text}):
        try:
            return adapter.validate_python(form, context={"folder": folder}), adapter
        except ValidationError:
            continue
    raise AssertionError(f"no form of {text!r} is valid")


@pytest.mark.parametrize("name", PATHS)
def test_a_path_starts_at_the_folder_of_the_config_and_a_record_keeps_it_relative(name, tmp_path, monkeypatch):
    (tmp_path / ".pairmill").mkdir()
    monkeypatch.chdir(tmp_path)
    configs = tmp_path / "configs"
    for text, absolute, recorded in (
        ("in/a.json", f"{configs}/in/a.json", "configs/in/a.json"),
        ("./a.json", f"{configs}/a.json", "configs/a.json"),
        ("../b/a.json", f"{configs}/../b/a.json", "configs/../b/a.json"),
        (f"{tmp_path}/c/a.json", f"{tmp_path}/c/a.json", "c/a.json"),
        ("/elsewhere/a.json", "/elsewhere/a.json", "/elsewhere/a.json"),
        ("~/a.json", str(Path.home() / "a.json"), str(Path.home() / "a.json")),
    ):
        value, adapter = validate(PATHS[name], text, configs)
        written = adapter.dump_python(value, mode="json", context=RECORDED)
        assert (absolute in str(value), recorded in str(written)) == (True, True), (text, value, written)
        assert f"{tmp_path}" not in str(written)
        again, _ = validate(PATHS[name], recorded, None)
        assert again == value, "the record's value is the same path"
    if "Path" not in str(PATHS[name].annotation):
        value, _ = validate(PATHS[name], "s3://bucket/a.json", configs)
        assert "s3://bucket/a.json" in str(value)
        assert str(tmp_path) not in str(value)
    with pytest.raises(AssertionError, match="no form of"):
        validate(PATHS[name], "in/a\0b.json", configs)


def test_a_config_in_another_folder_gives_the_same_keys_after_a_move(tmp_path, monkeypatch):
    before, after = tmp_path / "a [1]", tmp_path / "b"
    (before / ".pairmill").mkdir(parents=True)
    (before / "lists").mkdir()
    (before / "lists" / "one.warc").touch()
    (before / "out.txt").write_text("example.org\n")
    (before / "configs").mkdir()
    config = before / "configs" / "mine.toml"
    config.write_text(
        'name = "mine"\n[source]\nkind = "warc"\npaths = ["../lists/*.warc"]\n'
        '[filter.opt_out_lists]\nown = "../out.txt"\n[download]\ncontact = "https://example.org"\n'
    )

    def read(folder, cwd):
        monkeypatch.chdir(cwd)
        found = load_config(folder / "configs" / "mine.toml", until="pack")
        return found, [found.source.key_config(), [one.model_dump() for one in found.source.inputs()]]

    config_before, keys = read(before, before)
    assert config_before.store.uri == str(before / ".pairmill/store")
    assert read(before, before / "lists")[1] == keys, "from another folder of the project"
    record = config_before.as_dict()
    before.rename(after)
    assert str(before) not in str(record), record
    assert read(after, after)[1] == keys
    assert RunConfig.model_validate(record) == read(after, after)[0]
    assert tomllib.loads((after / "configs" / "mine.toml").read_text())["source"]["paths"] == ["../lists/*.warc"]
