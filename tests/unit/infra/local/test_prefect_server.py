from starlette.applications import Starlette
from starlette.testclient import TestClient

from infra.local.page_policy import POLICY
from infra.local.prefect_server import add_policy


def test_policy_is_added_once_also_to_an_application_that_runs():
    application = Starlette()
    with TestClient(add_policy(application)) as client:
        assert client.get("/").headers["content-security-policy"] == POLICY
        assert add_policy(application) is application  # Prefect's services ask for it again
        assert client.get("/").headers.get_list("content-security-policy") == [POLICY]
