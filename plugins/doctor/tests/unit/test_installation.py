import json
import sys
from importlib import metadata

from plugins.doctor import installation


def version_of(installed):
    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    return version


def install(site, name, top_level, direct_url=None):
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "top_level.txt").write_text(top_level)
    if direct_url is not None:
        (info / "direct_url.json").write_text(json.dumps(direct_url))
    return metadata.Distribution.at(info)


def test_check_checkout_compares_the_running_and_the_installed_one(tmp_path):
    here, there = (tmp_path / "he re").resolve(), (tmp_path / "there").resolve()
    editable = {"url": here.as_uri(), "dir_info": {"editable": True}}
    ours = install(tmp_path / "a", "pairmill", "flows", editable)
    assert installation.check_checkout([ours], here).ok
    wrong = installation.check_checkout([ours], there)
    assert (wrong.ok, wrong.severity) == (False, "error")
    assert wrong.remedy == f"{sys.executable} -m pip install pairmill"
    (there / "pyproject.toml").parent.mkdir()
    (there / "pyproject.toml").touch()
    assert installation.check_checkout([ours], there).remedy == f"{sys.executable} -m pip install -e {there}"
    unpacked = install(tmp_path / "site", "pairmill", "flows", {"url": here.as_uri(), "dir_info": {}})
    assert installation.check_checkout([unpacked], (tmp_path / "site/pairmill/app").resolve()).ok
    missing = installation.check_checkout([], here)
    assert (missing.ok, missing.severity) == (False, "warning")


def test_check_packages_names_missing_and_outdated_packages():
    requirements = ["prefect>=3.9,<4", "pyarrow>=20", "boto3>=1.36", "standard-imghdr; python_version < '3'"]
    missing, old = installation.check_packages(requirements, version_of({"prefect": "3.10.0rc1", "boto3": "1.34.9"}))
    assert (missing.name, missing.ok, missing.severity) == ("pyarrow", False, "error")
    assert missing.remedy.endswith("-m pip install 'pyarrow>=20'")
    assert (old.name, old.detail) == ("boto3", "1.34.9 is installed, but boto3>=1.36 is needed")
    (fine,) = installation.check_packages(
        requirements, version_of({"prefect": "3.9.1", "boto3": "1.36", "pyarrow": "25.0.0"})
    )
    assert fine.ok
    assert fine.detail.startswith("3 ")
