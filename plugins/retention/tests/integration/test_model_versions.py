"""What gc keeps for registered models, and old versions of them, in a real MLflow."""

import pytest

from dataops.snapshot import SnapshotName, find_manifest
from dataops.store import FolderStore
from flows.app import run_command
from plugins.retention.model_versions import delete_old_models, find_old_models, snapshots_of
from plugins.retention.registered_models import find_needed_snapshots
from tasks.engine import stage
from tests.registrations import connect, find_versions, plan_registration, register_mixed
from tests.stored_snapshots import names, put, put_run

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("register_plugins")]


@pytest.fixture
def find_own(mlflow_url):
    """Return `find_old_models` without the models that other tests have left on the server."""
    others = {model.name for model in find_old_models(0, [], [], unversioned_seconds=0)}
    return lambda *given, **more: [model for model in find_old_models(*given, **more) if model.name not in others]


@pytest.fixture
def versions(find_own, upstream):
    """Return four versions of `many`, by number; the second has an alias, the fourth is the newest."""
    for number in range(4):
        stage.make(*plan_registration(upstream, model_name="many", description=f"number {number}"))
    for alias in connect().get_registered_model("many").aliases:
        connect().delete_registered_model_alias("many", alias)
    connect().set_registered_model_alias("many", "deployed", "2")
    return {str(version.version): version for version in find_versions("many")}


def files_of(version):
    """Return the names of the files of a version that MLflow has."""
    from mlflow.artifacts import list_artifacts

    return [file.path for file in list_artifacts(artifact_uri=version.source)]


def is_deleted(version):
    """Return whether MLflow has no file of a version."""
    from mlflow.exceptions import MlflowException

    try:
        return not files_of(version)
    except MlflowException:
        return True


def test_versions_are_deleted_with_their_files_but_for_aliases_the_newest_and_those_that_a_config_names(
    find_own, versions, upstream
):
    def old(config, keep=1):
        found = find_own(keep, [FolderStore(upstream.store.root)], [config])
        assert all(model.bytes > 10_000 for model in found)
        return [model.name for model in found]

    assert set(old({})) == {"many version 1", "many version 3"}
    assert old({"curate": {"scores": [{"model": "models:/many/3"}, {"model": "many@deployed"}]}}) == ["many version 1"]
    assert old({}, keep=3) == ["many version 1"]
    before = {number: files_of(version) for number, version in versions.items()}
    assert all("MLmodel" in files for files in before.values())

    doomed = find_own(1, [], [])
    needed = set(find_needed_snapshots().values())
    assert needed - set(find_needed_snapshots(snapshots_of(doomed)).values()) == {"many version 1", "many version 3"}
    connect().set_registered_model_alias("many", "late", "3")  # after the list was made
    delete_old_models(doomed)
    assert {str(version.version) for version in find_versions("many")} == {"2", "3", "4"}
    for number in "234":
        assert files_of(versions[number]) == before[number]

    connect().delete_model_version("many", "3")  # as a call that is killed right then
    (left,) = find_own(1, [], [], unversioned_seconds=0)
    assert left.version is None
    assert find_own(1, [], []) == [], "it may be one that is being registered"
    delete_old_models([left])
    assert find_own(1, [], [], unversioned_seconds=0) == []
    for number in "13":
        assert is_deleted(versions[number])


def test_gc_keeps_what_a_model_needs_until_its_version_is_deleted(mlflow_url, upstream, tmp_path, capsys, read_json):
    store, _ = register_mixed(upstream, tmp_path, "collected", "only-it")
    (version,) = find_versions("collected")
    manifests = [find_manifest(store, *name) for name in names(store)]  # None of a registration that was interrupted
    (register,) = (one for one in manifests if one and one.stage == "register" and one.mlflow_run_id == version.run_id)
    own = {f"register/{register.key}", "train/only-it000000000"}
    unneeded = SnapshotName("extract", "0" * 16)
    put(store, unneeded, [])
    put_run(store, "old-run", [unneeded])

    def gc(*options):
        """Return what is not needed, and the report."""
        capsys.readouterr()
        assert run_command(["gc", "--store", store.uri, "--json", *options]) == 0
        report = read_json()["stores"][0]
        return {f"{row['stage']}/{row['key']}" for row in report["snapshots"]}, report

    def write(manifest):
        (store.root / manifest.path("manifest.json")).write_bytes(manifest.encode())

    kept, everything = gc()[1]["kept"], names(store)
    assert str(unneeded) in kept["one of the 10 newest runs of its name"]
    assert own <= {*kept["collected version 1"]}
    before, report = gc("--keep-runs", "0")
    assert str(unneeded) in before
    assert not own & before
    assert {row["last_run"] for row in report["snapshots"] if row["key"] == unneeded.key} == {"old-run"}
    assert names(store) == everything, "without --yes nothing is deleted"
    assert {*gc("--keep-runs", "0", "--yes")[1]["deleted"]} == before
    assert {*map(str, names(store))} == {*map(str, everything)} - before
    assert run_command(["show", "old-run", "--store", store.uri]) == 0
    assert "deleted since" in capsys.readouterr().out

    connect().delete_model_version("collected", version.version)
    write(register.model_copy(update={"mlflow_run_id": "0" * 32}))
    unknown = gc("--keep-runs", "0")[1]["kept"]["a model that this MLflow server has never seen"]
    assert own <= {*unknown}
    write(register)
    assert own <= {*gc("--keep-runs", "0", "--yes")[1]["deleted"]}
    assert not own & {*map(str, names(store))}
