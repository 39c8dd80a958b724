import pytest

from dataops.errors import ConfigError
from dataops.store import open_store
from flows.allowed_stores import check_store
from flows.records import remember_store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def known(uri, home):
    try:
        check_store(uri, home)
    except ConfigError as error:
        assert "PAIRMILL_STORES" in str(error)  # noqa: PT017
        return False
    return True


def test_new_home_knows_only_its_own_store(home):
    assert known(str(home / "store"), home)
    assert known(f"{home}/x/../store/", home)
    for uri in (
        "s3://bucket/prefix",
        "/",
        str(home),
        str(home / "store" / "below"),
        "store",
        "",
        "http://evil.example/x",
    ):
        assert not known(uri, home)


def test_stores_of_runs_and_deployments_are_known(home, tmp_path):
    remember_store("run-1", open_store(str(tmp_path / "of-run")), home)
    (home / "deployed").mkdir(parents=True)
    for name, uri in {"nightly": str(tmp_path / "relative"), "cloud": "s3://bucket/prefix/", "torn": ""}.items():
        (home / "deployed" / name).write_text(uri)
    (tmp_path / "link").symlink_to(tmp_path / "of-run")
    for uri in (tmp_path / "of-run", tmp_path / "link", "of-run", tmp_path / "relative", f"file://{tmp_path}/relative"):
        assert known(str(uri), home)
    assert known("s3://bucket/prefix", home)
    for uri in ("s3://bucket", "s3://bucket/prefix/below", "s3://bucket/prefix2", "s3://other/prefix", tmp_path):
        assert not known(str(uri), home)
    (home / "deployed" / "nightly").unlink()
    assert not known("relative", home)


def test_variable_names_stores_and_all_that_is_under_them(home, tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_STORES", f"s3://team/, {tmp_path}/data ,,")
    for uri in ("s3://team", "s3://team/a/b", f"{tmp_path}/data", f"{tmp_path}/data/a"):
        assert known(uri, home)
    for uri in ("s3://team2", "s3://teams/a", f"{tmp_path}/data2", f"{tmp_path}/data/../evil", "s3://"):
        assert not known(uri, home)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "out").symlink_to("/tmp")
    assert not known(f"{tmp_path}/data/out", home)
