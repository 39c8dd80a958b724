"""What a web page of another origin can do to the local servers and workers: nothing.

Each attempt is made twice: as a browser would send it, and by a page in a real browser where there is one. The servers and
workers are those of `pairmill up --worker`, in a home of their own.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from functools import partial
from itertools import product
from uuid import uuid4

import httpx
import pytest
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect

from dataops.home import CHECKOUT
from flows.config import load_config
from flows.records import create_run
from infra.local import services
from tests import concurrency
from tests.servers.browser import find_browser, record_requests, serve_page, start_browser
from tests.servers.prefect_api import PrefectApi
from tests.small_pipeline import local_servers

pytestmark = pytest.mark.timeout(600)
EVIL = "http://evil.example:8000"
SOCKETS = ("/events/in", "/events/out", "/logs/out", "/task_runs/subscriptions/scheduled")
PLANTED = "planted-by-a-page"
EXPERIMENTS = "/api/2.0/mlflow/experiments/search"
CONFIG = """
name = "nightly"
[store]
uri = "{folder}/store"
[source]
kind = "warc"
paths = ["{folder}/pages.warc.gz"]
[download]
connect_to = {{ "site.example" = "127.0.0.1:9" }}
[train]
model = "{root}/tests/data/tiny-model.json"
[evaluate]
suite = "{folder}/suite.toml"
data = "{folder}"
[register]
model_name = "nightly"
"""
SUITE = """
name = "small"
[[task]]
name = "held-out"
kind = "classification"
root = "held-out"
split = "test"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Start both servers."""
    folder = tmp_path_factory.mktemp("page") / "home"
    with local_servers(folder):
        yield folder


wait_for = partial(concurrency.wait_for, seconds=300, pause=0.3)


class Api(PrefectApi):
    """What the attacks may have changed."""

    def flows(self):
        return {flow["name"] for flow in self.post("flows/filter", {})}

    def events(self):
        return {event["event"] for event in self.post("events/filter", {"filter": {}, "limit": 50})["events"]}

    def wait(self, flow_run):
        """Return the final state of a flow run."""
        ends = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        return wait_for(lambda: (s := self.get(f"flow_runs/{flow_run}")["state"]) and s["type"] in ends and s)


@pytest.fixture(scope="module")
def api(home):
    return Api(services.status()[0].url)


@pytest.fixture(scope="module")
def mlflow(home):
    return services.status()[1].url


@pytest.fixture(scope="module")
def client():
    """Return a client of plain HTTP, which reads no certificates."""
    with httpx.Client(timeout=60, verify=False) as client:
        yield client


# As a browser would send it ---------------------------------------------------------------------------------------------

BODIES = {
    "a body without a type": {"content": json.dumps({"name": PLANTED}).encode()},
    "text": {"content": json.dumps({"name": PLANTED}).encode(), "headers": {"Content-Type": "text/plain"}},
    "a form": {"data": {"name": PLANTED}},
    "a form with files": {"files": {"name": (None, PLANTED)}},
    "JSON": {"json": {"name": PLANTED}},
}
"""Requests that a page can send without asking first, and one for which its browser asks first."""


def _post(client, url, origin, options):
    """Send one of the bodies as a page of an origin; the answer lets no other origin read it."""
    answer = client.post(url, **options | {"headers": {"Origin": origin, **options.get("headers", {})}})
    assert answer.headers.get("access-control-allow-origin") is None
    return answer.status_code


def test_page_cannot_post_to_prefect(api, client):
    for name, options in BODIES.items():
        assert (name, _post(client, f"{api.url}/flows/", EVIL, options)) == (name, 401)
    assert PLANTED not in api.flows()


def test_no_route_of_prefect_answers_without_the_login(api, client):
    """Each method of each path that the server itself lists, also under another host name (DNS rebinding)."""
    listed = api.get("openapi.json")["paths"]
    routes = [(method, path.removeprefix("/api")) for path, methods in listed.items() for method in methods]
    assert len(routes) > 150
    statuses, headers = {}, {"Origin": EVIL, "Host": "evil.example"}
    for method, path in routes:
        url = api.url + path.replace("{", "").replace("}", "")
        statuses[f"{method} {path}"] = client.request(method, url, headers=headers).status_code
    health = {"get /health": 200, "get /ready": 200}
    assert {route: status for route, status in statuses.items() if status != 401} == health


@pytest.mark.parametrize("protocol", [None, "prefect"])
@pytest.mark.parametrize("token", [None, "", "pairmill:guess"])
def test_page_cannot_use_a_websocket_of_prefect(api, protocol, token):
    first = {"type": "auth", "token": token} if protocol else {"type": "subscribe", "keys": []}
    for path in SOCKETS:
        answers = []
        with contextlib.suppress(WebSocketException, InvalidStatus):
            url = api.url.replace("http://", "ws://") + path
            with connect(url, origin=EVIL, subprotocols=[protocol] if protocol else None, proxy=None) as socket:
                for message in (first, _event(f"{PLANTED}.socket"), {"type": "filter", "filter": {}}):
                    socket.send(json.dumps(message))
                answers = [socket.recv(timeout=5)]
        assert (path, answers) == (path, [])
    assert f"{PLANTED}.socket" not in api.events()


def _event(name, **labels):
    resource = {"prefect.resource.id": f"pairmill.dataset.{uuid4()}", **labels}
    occurred = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"occurred": occurred, "event": name, "resource": resource, "related": [], "payload": {}, "id": str(uuid4())}


@pytest.mark.parametrize("origin", [EVIL, "http://localhost:1", "http://127.0.0.1:1", "https://localhost", "null"])
def test_page_cannot_post_to_mlflow(mlflow, client, origin):
    for prefix, (name, options) in product(("/api", "/ajax-api"), BODIES.items()):
        status = _post(client, f"{mlflow}{prefix}/2.0/mlflow/experiments/create", origin, options)
        assert (prefix, name, status) == (prefix, name, 403)
    assert PLANTED not in client.get(f"{mlflow}{EXPERIMENTS}?max_results=100").text


@pytest.mark.parametrize("path", ["/api/2.0/mlflow/x", "/ajax-api/3.0/jobs/", "/graphql", "/v1/traces", "/gateway/x/y"])
def test_page_cannot_change_anything_in_mlflow(mlflow, client, path):
    for method, origin in product(("post", "put", "patch", "delete"), (EVIL, "http://localhost:1")):
        answer = client.request(method, mlflow + path, headers={"Origin": origin})
        assert (method, answer.status_code) == (method, 403)


def test_mlflow_has_no_assistant_that_runs_commands(mlflow, client):
    assert client.get(f"{mlflow}/ajax-api/3.0/mlflow/assistant/providers").status_code == 404


def test_pages_of_mlflow_can_use_it(mlflow, client):
    for host in (mlflow.removeprefix("http://"), "localhost:8080"):  # another port: through a tunnel
        headers = {"Origin": f"http://{host}", "Host": host}
        url = f"{mlflow}/ajax-api/2.0/mlflow/experiments/search"
        assert client.post(url, json={"max_results": 1}, headers=headers).status_code == 200
        assert client.get(url, params={"max_results": 1}, headers=headers | {"Origin": EVIL}).status_code == 403


def test_page_that_rebinds_its_name_cannot_read_mlflow(mlflow, client):
    def read(host):
        return client.get(f"{mlflow}{EXPERIMENTS}?max_results=1", headers={"Host": host}).status_code

    rebound = ("evil.example", "10.evil.example", "192.168.evil.example", "172.16.evil.example")
    for host in (f"{name}{port}" for name in rebound for port in ("", ":5000")):
        assert (host, read(host)) == (host, 403)
    for own in ("127.0.0.1:5000", "localhost:8080", "localhost"):
        assert (own, read(own)) == (own, 200)


# A page in a real browser -----------------------------------------------------------------------------------------------

ATTACK = """
(async () => {
  const [prefect, mlflow, sockets, event, planted] = %s
  const blob = text => new Blob([text])
  const said = {}
  const send = async (name, url, options) => {
    try {
      const answer = await fetch(url, {method: "POST", ...options})
      said[name] = answer.type === "opaque" ? "opaque" : answer.status + " " + await answer.text()
    } catch (error) { said[name] = "blocked" }
  }
  const named = JSON.stringify({name: planted})
  await send("no type", prefect + "/flows/", {mode: "no-cors", body: blob(named)})
  await send("text", prefect + "/flows/", {mode: "no-cors", body: named})
  await send("JSON", prefect + "/flows/", {body: named, headers: {"Content-Type": "application/json"}})
  await send("credentials", prefect + "/flows/", {mode: "no-cors", credentials: "include", body: blob(named)})
  await send("events", prefect + "/events", {mode: "no-cors", body: blob(JSON.stringify([event]))})
  await send("read", prefect + "/flows/filter", {body: "{}"})
  await send("mlflow", mlflow + "/api/2.0/mlflow/experiments/create", {mode: "no-cors", body: blob(named)})
  await send("mlflow JSON", mlflow + "/ajax-api/2.0/mlflow/experiments/create",
             {body: named, headers: {"Content-Type": "application/json"}})
  for (const type of ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"]) {
    const frame = document.createElement("iframe"), form = document.createElement("form")
    frame.name = type; document.body.append(frame)
    Object.assign(form, {method: "POST", action: prefect + "/flows/", enctype: type, target: type})
    form.innerHTML = '<input name=\\'{"name":"' + planted + '","x":"\\' value=\\'"}\\'>'
    document.body.append(form); form.submit()
  }
  for (const path of sockets) for (const protocol of [[], ["prefect"]]) {
    said[path + protocol] = await new Promise(done => {
      const socket = new WebSocket(prefect.replace("http", "ws") + path, protocol)
      const first = protocol.length ? {type: "auth", token: "pairmill:guess"} : event
      socket.onopen = () => { socket.send(JSON.stringify(first)); socket.send(JSON.stringify(event))
                              socket.send(JSON.stringify({type: "filter", filter: {}})) }
      socket.onmessage = message => done("answered " + message.data)
      socket.onclose = () => done("closed")
      setTimeout(() => done("silent"), 5000)
    })
  }
  await new Promise(done => setTimeout(done, 2000))
  return said
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    find_browser()
    with start_browser(tmp_path_factory.mktemp("page") / "profile") as started:
        yield started


@pytest.mark.parametrize("host", ["evil.example", "localhost"])
def test_page_in_a_real_browser_drives_no_server(browser, api, mlflow, client, host):
    event = _event(f"{PLANTED}.page", **{"pairmill.store": "/tmp/evil"})
    with serve_page(host) as page:
        browser.open(page)
        browser.wait_for("document.title == 'another site'")
        assert browser.run("location.origin").startswith(f"http://{host}:")
        said = browser.run(ATTACK % json.dumps([api.url, mlflow, SOCKETS, event, PLANTED]))
    assert {name: answer for name, answer in said.items() if answer not in ("opaque", "blocked", "closed")} == {}
    assert said.keys() >= {"no type", "events", "mlflow", "/events/in", "/events/outprefect"}
    assert PLANTED not in api.flows()
    assert f"{PLANTED}.page" not in api.events()
    assert PLANTED not in client.get(f"{mlflow}{EXPERIMENTS}?max_results=100").text


LOGIN = """
(() => {
  const field = document.querySelector("input[type=password]")
  if (!field) return false
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(field, %s)
  field.dispatchEvent(new Event("input", {bubbles: true}))
  field.closest("form") ? field.closest("form").requestSubmit() : document.querySelector("button[type=submit]").click()
  return true
})()
"""


@pytest.fixture(scope="module")
def logged_in(home, tmp_path_factory):
    """Log in once on the page that `pairmill up` names; return the browser, and what it requests of other machines."""
    find_browser()
    folder = tmp_path_factory.mktemp("logged-in") / "profile"
    with record_requests() as (proxy, requested), start_browser(folder, proxy) as browser:
        browser.open(services.status()[0].ui_url)
        browser.wait_for("document.querySelector('input[type=password]') && document.readyState == 'complete'")
        assert browser.run(LOGIN % json.dumps(services.show_login()))
        browser.wait_for("!location.pathname.includes('login') && localStorage.length > 0")
        yield browser, requested


def test_links_to_prefect_work_after_one_login(logged_in, api):
    """The links that we print ask for none, in either UI."""
    browser, server = logged_in[0], services.status()[0].ui_url
    flow = api.post("flows/", {"name": "shown-flow"})["id"]
    run = api.post("flow_runs/", {"flow_id": flow, "name": "shown-run", "state": {"type": "COMPLETED"}})["id"]
    for link in (f"{server}/runs/flow-run/{run}", f"{server}/v2/runs/flow-run/{run}"):
        browser.open(link)
        browser.wait_for("document.body.innerText.includes('shown-run')")
        assert not browser.run("!!document.querySelector('input[type=password]')")


# What our own pages request ---------------------------------------------------------------------------------------------

FOREIGN = "https://internet.example"
PREFECT_PAGES = ("artifacts/artifact/{artefact}", "blocks/catalog")
MLFLOW_PAGES = ("", "#/models/planted", "#/experiments/0/runs/{run}?workflowType=machine_learning")
MARKDOWN = f"![image]({FOREIGN}/image.png) <img src='{FOREIGN}/other.png'>"
LOADED = "document.readyState == 'complete' && document.body && document.body.innerText.length > 10"
FETCH = f"fetch('{FOREIGN}/control', {{mode: 'no-cors'}}).then(() => 1, () => 2)"


def test_servers_send_the_policy_of_their_pages(home, client):
    for server in services.status():
        for path in ("/", "/v2/", "/api/health", "/health"):
            assert "default-src 'self'" in client.get(server.ui_url + path).headers["content-security-policy"], path


def test_no_page_requests_anything_from_another_server(logged_in, api, mlflow, client):
    """Pages of Prefect's two UIs and of MLflow, with Markdown that names images of another site."""
    flow = api.post("flows/", {"name": "quiet"})["id"]
    run = api.post("flow_runs/", {"flow_id": flow, "name": "quiet-run", "state": {"type": "COMPLETED"}})["id"]
    artefact = {"key": "planted", "type": "markdown", "data": MARKDOWN, "flow_run_id": run}
    artefact = api.post("artifacts/", artefact)["id"]
    rest = f"{mlflow}/api/2.0/mlflow"
    tags = [{"key": "mlflow.note.content", "value": MARKDOWN}]
    created = client.post(f"{rest}/runs/create", json={"experiment_id": "0", "run_name": "quiet", "tags": tags}).json()
    model = {"name": "planted", "description": MARKDOWN}
    assert client.post(f"{rest}/registered-models/create", json=model).status_code == 200
    server = services.status()[0].ui_url
    pages = [f"{server}/{ui}{page.format(artefact=artefact)}" for ui in ("", "v2/") for page in PREFECT_PAGES]
    pages += [f"{mlflow}/{page.format(run=created['run']['info']['run_id'])}" for page in MLFLOW_PAGES]
    browser, requested = logged_in
    for page in pages:
        browser.open("about:blank")  # a change of the fragment alone would load nothing
        browser.open(page)
        browser.wait_for(LOADED)
        time.sleep(0.3)  # requests that a page sends once it is shown
    assert requested == []
    assert browser.run(FETCH) == 2  # the policy stops it
    with serve_page("localhost") as other:
        browser.open(other)
        browser.wait_for("document.title == 'another site'")
        browser.run(FETCH)
    assert requested == ["CONNECT internet.example:443 HTTP/1.1"]  # so what is not stopped is recorded


# Second line: a request that has the login, or a server that another person can write to ----------------------------------


@pytest.fixture(scope="module")
def workers(home, api):
    """Deploy a config and start the workers, as `pairmill up --worker`; return the folder of the config."""
    deployed = pytest.importorskip("plugins.deployment.workers")
    folder = home.parent
    (folder / "pages.warc.gz").write_bytes(b"")
    (folder / "held-out" / "test" / "0").mkdir(parents=True)
    (folder / "suite.toml").write_text(SUITE)
    (folder / "nightly.toml").write_text(CONFIG.format(folder=folder, root=CHECKOUT))
    command = [sys.executable, "-m", "flows.cli", "deploy", "nightly.toml"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        command, cwd=folder, env=env | {"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_WORKER_QUERY_SECONDS", "2")
        deployed.start_workers("pairmill", gpus=1)
        yield folder


def test_worker_refuses_deployments_that_run_something_else(api, workers):
    mark = workers / "ran"
    (workers / "evil.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(workers)}}]
    shell = [{"prefect.deployments.steps.run_shell_script": {"script": f"touch {mark}"}}, *pull]
    jobs = {
        "command": {"job_variables": {"command": f"touch {mark}"}},
        "environment": {"job_variables": {"env": {"PYTHONPATH": str(workers)}}},
        "pull steps": {"pull_steps": shell},
        "entrypoint": {"entrypoint": "evil.py:train"},
    }
    flow = api.post("flows/", {"name": "train"})["id"]
    usual = {"flow_id": flow, "work_pool_name": "pairmill", "entrypoint": "flows.pipeline.train", "pull_steps": pull}
    runs = {}
    for name, changed in jobs.items():
        deployment = api.post("deployments/", {**usual, "name": f"evil {name}", **changed})["id"]
        asked = {"parameters": {"run_id": "x"}, "state": {"type": "SCHEDULED"}}
        runs[name] = api.post(f"deployments/{deployment}/create_flow_run", asked)["id"]
    for name, run in runs.items():
        state = api.wait(run)
        assert (name, state["type"]) == (name, "CRASHED")
        assert "this worker runs flows of pairmill only, so it refuses this job" in state["message"]
    assert not mark.exists()
    assert "it refuses this job" in (workers / "home/services/worker-pairmill/log").read_text()


def _land(api, run_id, store):
    """Send the event that starts a training, and return the state in which it ended."""
    labels = {"run": run_id, "store": store, "until": "pack", "begun-by": "curate"}
    event = _event("pairmill.dataset.landed", **{f"pairmill.{name}": value for name, value in labels.items()})
    api.post("events", [event])
    query = {"flow_runs": {"name": {"any_": [run_id]}}}
    (run,) = wait_for(lambda: api.post("flow_runs/filter", query))
    return api.wait(run["id"])


def test_event_with_a_foreign_store_runs_nothing_in_it(api, workers):
    config = load_config(workers / "nightly.toml", [f'store.uri="{workers}/evil-store"'])
    record = create_run(config, workers / "elsewhere")
    before = sorted((workers / "evil-store").rglob("*"))
    state = _land(api, record.run_id, config.store.uri)
    assert state["type"] == "FAILED"
    assert f"the store '{config.store.uri}' is unknown on this machine" in state["message"]
    assert sorted((workers / "evil-store").rglob("*")) == before


def test_training_in_a_known_store_reads_no_source_of_a_planted_record(api, workers):
    """It gets to the store, so the worker's processes have the login, but makes no stage before the training."""
    record = create_run(load_config(workers / "nightly.toml"), workers / "elsewhere")
    state = _land(api, record.run_id, f"{workers}/store")
    assert state["type"] == "FAILED"
    assert "has no complete snapshot extract/" in state["message"]
    assert not (workers / "store" / "extract").exists()
