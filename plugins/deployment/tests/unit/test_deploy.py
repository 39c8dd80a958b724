"""The options of `pairmill deploy` that are refused before a server starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from dataops.errors import ConfigError
from plugins.deployment.deploy import check_request, remove
from plugins.deployment.request import DeployRequest

REQUEST = DeployRequest(Path("a.toml"), cron="0 3 * * *", notify=("slack-webhook/ops",))


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("cron", ["", "nightly", "99 3 * * *"]),
        ("timezone", ["", "Mars/Base", "../UTC"]),
        ("retries", [-1, 10**30]),
        ("gpus", [0, 10**30]),
        ("notify", [["ops"], ["slack-webhook/ops/"]]),
        ("pool", ["", " ", "a b", "a/b", "a<b", "a;b", "-a", "prefect-a", "Prefect", "a" * 101, "a\n"]),
    ],
)
def test_unusable_values_are_named_together(option, values):
    check_request(REQUEST)
    for value in values:
        with pytest.raises(ConfigError, match=f"--{option} ") as refused:
            check_request(replace(REQUEST, **{option: value}))
        assert str(refused.value).count("\n") == 0


def test_removal_of_a_lost_config_names_what_is_enough(tmp_path):
    with pytest.raises(ConfigError, match=r'night.toml: cannot be read: .*enough to remove it: name = "night"'):
        remove(tmp_path / "night.toml")
