"""MLflow calls a webhook when an alias moves, with a signature that the code in docs/evaluate/registry.md accepts."""

import re

import pytest

from dataops.home import CHECKOUT
from tasks.tracking.client import connect
from tests.servers.recorder import serve_recorder

pytestmark = pytest.mark.xdist_group("register")

SECRET = "the secret of the webhook"


def test_moved_alias_calls_a_webhook_with_a_signature(mlflow_url):
    give_alias = pytest.importorskip("plugins.versions.promote").give_alias
    client, code = connect(), {}
    blocks = re.findall(r"```python\n(.*?)```", (CHECKOUT / "docs" / "evaluate" / "registry.md").read_text(), re.DOTALL)
    exec(next(block for block in blocks if "def verify" in block), code)
    client.create_registered_model("hooked")
    version = client.create_model_version("hooked", "s3://bucket/hooked")
    with serve_recorder() as receiver:
        events = ["model_version_alias.created", "model_version_alias.deleted"]
        hook = client.create_webhook("aliases", receiver.url + "/moved", events, secret=SECRET)
        try:
            give_alias("hooked", str(version.version), "champion", "it is the first")
            (call,) = receiver.wait(1)
            assert (call.path, call.json()["entity"], call.json()["action"]) == (
                "/moved", "model_version_alias", "created",
            )  # fmt: skip
            assert call.json()["data"] == {"name": "hooked", "alias": "champion", "version": "1"}
            code["verify"](call.headers, call.body, SECRET)
            for headers, body, secret in (
                (call.headers, call.body + b" ", SECRET),
                (call.headers, call.body, "another"),
                ({**call.headers, "x-mlflow-timestamp": "1"}, call.body, SECRET),
            ):
                with pytest.raises(ValueError, match="signature is wrong"):
                    code["verify"](headers, body, secret)
            client.delete_registered_model_alias("hooked", "champion")
            assert receiver.wait(2)[1].json()["data"] == {"name": "hooked", "alias": "champion"}
        finally:
            client.delete_webhook(hook.webhook_id)
            client.delete_registered_model("hooked")
