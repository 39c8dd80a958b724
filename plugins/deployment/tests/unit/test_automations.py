"""What a notification makes of text from the web that an error quotes."""

from types import SimpleNamespace
from uuid import uuid4

import pytest
from jinja2 import Environment

from plugins.deployment.automations import notification_automations


@pytest.mark.parametrize(
    "text",
    [
        *("[click](https://evil.test)", "![x](http://evil.test/p.png)", "<https://evil.test|click>", "<!channel>"),
        *("@here", "`code`", "www.evil.test", "HTTPS://evil.test", "[[a]]", "x" * 5000),
    ],
)
def test_error_in_a_notification_has_no_markup_link_or_mention(text):
    action = notification_automations([uuid4()], "http://ui.test")[0].actions[0]
    resource = {
        "prefect.state-message": f"caption {text}",
        "prefect.resource.name": "run",
        "prefect.state-name": "Failed",
    }
    event, flow = SimpleNamespace(resource=resource), SimpleNamespace(name="a", id=1)
    body = Environment(autoescape=False).from_string(action.body).render(event=event, flow=flow, flow_run=flow)
    quoted = body.removesuffix("Page: http://ui.test/runs/flow-run/1")
    assert "caption" in quoted
    assert len(body) < 1000
    assert [one for one in ("[", "]", "<", ">", "@", "`", "://", "www.", "|") if one in quoted] == []
