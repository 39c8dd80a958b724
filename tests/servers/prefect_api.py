"""The REST interface of a Prefect server for a client that has its login, as its UI uses it."""

import time

import httpx

from infra.local import services


class PrefectApi:
    """Requests to a server, given its URL with `/api`."""

    def __init__(self, url):
        self.url = url

    def send(self, method, path, value=None):
        """Send one request; like Prefect's own client, retry if SQLite was locked (503)."""
        login = services.authorization(f"{self.url}/{path}")
        for _ in range(20):
            # verify=False: plain HTTP, and reading all certificates of the system takes longer than the request.
            answer = httpx.request(method, f"{self.url}/{path}", json=value, headers=login, timeout=60, verify=False)
            if answer.status_code != 503:
                break
            time.sleep(0.5)
        return answer

    def get(self, path):
        answer = self.send("GET", path)
        return answer.json() if answer.status_code == 200 else None

    def post(self, path, value):
        answer = self.send("POST", path, value).raise_for_status()
        return answer.json() if answer.content else None
