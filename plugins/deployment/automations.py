"""The automations that belong to no deployment: they mark dead flow runs as Crashed and send notifications.

The automations that start one flow after another are the `triggers` of infra/prefect.yaml.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypesOrUnknown, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from flows.listeners.base import TAKEDOWN_DUE
from plugins.deployment.events import MATCHED, PROMOTED

NAMES = ("pipeline", "curate", "train", "evaluate")
"""The flows that the automations watch."""
SILENCE = timedelta(seconds=75)
"""A flow run sends a heartbeat every 30 s (PREFECT_FLOWS_HEARTBEAT_FREQUENCY allows no less); one may get lost."""
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Paused", "Suspended", "AwaitingRetry")
PATIENCE = timedelta(minutes=10)
"""Time for which a run may be late, and a work pool without a worker, before a notification is sent."""
RETRY = "pairmill: run a crashed flow run again"
"""Name of the automation that does."""
BEGINS = ("Pending", "Running", "Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "AwaitingConcurrencySlot")
TEXT_LIMIT = 600
"""Maximum number of characters of an error in a notification."""

# An error may quote text from the web: its markup, links and mentions must have no effect in a chat.
_QUOTED = (
    f"{{{{ event.resource['prefect.state-message'] | string | truncate({TEXT_LIMIT})"
    " | replace('<', '‹') | replace('>', '›') | replace('@', '(at)') | replace('`', \"'\") | replace('[', '(')"
    " | replace(']', ')') | replace('://', ': //') | replace('www.', 'www .') | replace('|', '¦') }}"
)


# Flow runs of our flows.
_OF_OUR_FLOWS: dict[str, Any] = {
    "match": {"prefect.resource.id": "prefect.flow-run.*"},
    "match_related": [{"prefect.resource.role": "flow", "prefect.resource.name": list(NAMES)}],
}


def _missing(
    after: str, expect: set[str], within: timedelta, for_each: Sequence[str] = ("prefect.resource.id",), **chosen: Any
) -> EventTrigger:
    """Return the trigger that fires when a resource emits none of the expected events in a time after another one.

    Args:
        for_each: labels that events of one resource share; without any, all chosen resources count as one.
    """
    return EventTrigger(
        after={after},
        expect=expect,
        for_each={*for_each},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
        **chosen,
    )


def zombie_automation(silence: timedelta = SILENCE) -> AutomationCore:
    """Return the automation that marks a flow run without heartbeats as `Crashed` (killed, out of memory, power loss).

    Args:
        silence: time without a heartbeat, at least 10 s.
    """
    return AutomationCore(
        name="pairmill: a dead run has crashed",
        description=f"No heartbeat for {silence.total_seconds():.0f} s: the process of the flow run has ended.",
        trigger=_missing(
            HEARTBEAT, {HEARTBEAT, *(f"prefect.flow-run.{name}" for name in ENDS)}, silence, **_OF_OUR_FLOWS
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name=None,
                force=False,
                message=f"No heartbeat for {silence.total_seconds():.0f} s: its process has ended.",
            )
        ],
    )


def retry_automation(retries: int) -> AutomationCore:
    """Return the automation that runs a crashed flow run of a deployment again, a number of times.

    It continues its run. If the process that was taken for dead still works, the new one waits for its lease. A flow run
    that never began (a job that the worker refuses) is not retried, nor one of a command, which Prefect cannot start.
    """
    return AutomationCore(
        name=RETRY,
        description=f"A flow run crashed: killed, out of memory, a lost machine. It runs again, up to {retries} times.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match={
                **_OF_OUR_FLOWS["match"],
                "prefect.run-count": [str(number) for number in range(1, retries + 1)],
            },
            match_related=[*_OF_OUR_FLOWS["match_related"], {"prefect.resource.role": "deployment"}],
            posture=Posture.Reactive,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED,
                name="AwaitingRetry",
                force=False,
                message="It crashed, and runs again.",
            )
        ],
    )


def absence_automation(blocks: Sequence[UUID], deployment: UUID, name: str, within: timedelta) -> AutomationCore:
    """Return the automation that notifies people when no run of a scheduled deployment begins for a time.

    Args:
        blocks: ids of the documents of Prefect's notification blocks.
        deployment: id of the deployment.
        name: its flow and name.
        within: the time, from the beginning of its last run.
    """
    hours = f"{within.total_seconds() / 3600:.3g} hours"
    begins = "prefect.flow-run.Running"
    return AutomationCore(
        name=absence_name(name),
        description=f"No run of {name} has begun for {hours}, which is longer than its schedule allows.",
        trigger=_missing(
            begins,
            {begins},
            within,
            for_each=(),
            match=_OF_OUR_FLOWS["match"],
            match_related=[
                {"prefect.resource.role": "deployment", "prefect.resource.id": f"prefect.deployment.{deployment}"}
            ],
        ),
        actions=_send(
            blocks,
            f"{name} has no run",
            f"No run of {name} has begun for {hours}. Its schedule may be paused, or the last run may still work.\n"
            "What runs: pairmill runs\nWhat is wrong: pairmill doctor",
        ),
    )


def absence_name(name: str) -> str:
    """Return the name of the automation that notifies people when a deployment has no run."""
    return f"pairmill: notify when {name} has no run"


def notification_automations(blocks: Sequence[UUID], ui_url: str) -> list[AutomationCore]:
    """Return the automations that notify people of failed runs, new champions, due takedowns and harmful images.

    Args:
        blocks: ids of the documents of Prefect's notification blocks.
        ui_url: URL of the Prefect UI, for links.
    """
    failure = (
        "{{ flow.name }} run {{ event.resource['prefect.resource.name'] }}:\n"
        f"{_QUOTED}\n"
        "{% if event.resource['prefect.state-name'] == 'Crashed' %}Retry on its page, or:"
        " pairmill rerun {{ event.resource['prefect.resource.name'] }}\n{% endif %}"
        f"Page: {ui_url}/runs/flow-run/{{{{ flow_run.id }}}}"
    )
    champion = (
        "{{ event.payload.model_uri }} is {{ event.payload.alias }} of {{ event.payload.model_name }}.\n"
        "{% for score in event.payload.scores %}{{ score.name }}: {{ '%.4f' | format(score.value) }}\n{% endfor %}"
        "{% for name, link in event.payload.links.items() %}MLflow {{ name }}: {{ link }}\n{% endfor %}"
        "Ancestry: pairmill show {{ event.resource['pairmill.run'] }}"
    )
    takedown = (
        "{% if event.payload.days < 0 %}It is overdue{% elif event.payload.days == 0 %}Today is the last day"
        "{% elif event.payload.days == 1 %}1 day is left{% else %}{{ event.payload.days }} days are left{% endif %}.\n"
        "Store: {{ event.resource['pairmill.store'] }}\n"
        "To list who asked: pairmill takedown list\n"
        "To complete it: pairmill takedown FILE --delete-raw"
    )
    harm = (
        "{% for list in event.payload.lists %}{{ list.name }}: {{ list.matches }}\n{% endfor %}"
        "They were dropped before anything was written. What to do: docs/rights/hash-lists.md\n"
        "Run: pairmill show {{ event.resource['pairmill.run'] }}"
    )
    return [
        AutomationCore(
            name="pairmill: notify when a run fails",
            description="A flow run failed or crashed: its name, its stage, the error, and what to do.",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
                posture=Posture.Reactive,
                **_OF_OUR_FLOWS,
            ),
            actions=_send(
                blocks,
                "{{ event.resource['prefect.resource.name'] }} {{ event.resource['prefect.state-name'] | lower }}",
                failure,
            ),
        ),
        AutomationCore(
            name="pairmill: notify when a model is promoted",
            description="A model passed the gate and got its alias: its name, its scores, and links.",
            trigger=EventTrigger(expect={PROMOTED}, posture=Posture.Reactive),
            actions=_send(
                blocks,
                "New {{ event.payload.alias }}: {{ event.payload.model_name }} version {{ event.payload.version }}",
                champion,
            ),
        ),
        AutomationCore(
            name="pairmill: notify when a takedown request is due",
            description="An open takedown request is near or past its deadline.",
            trigger=EventTrigger(expect={TAKEDOWN_DUE}, posture=Posture.Reactive),
            actions=_send(
                blocks,
                "{{ event.resource['prefect.resource.name'] }} "
                "{% if event.payload.days < 0 %}was{% else %}is{% endif %} due on {{ event.payload.due }}",
                takedown,
            ),
        ),
        AutomationCore(
            name="pairmill: notify when an image is known to be harmful",
            description="Images of a download are on lists of known harmful images: their number, the lists, the run.",
            trigger=EventTrigger(expect={MATCHED}, posture=Posture.Reactive),
            actions=_send(
                blocks,
                "Known harmful images: {{ event.payload.matches }} in {{ event.resource['pairmill.run'] }}",
                harm,
            ),
        ),
    ]


def late_automations(
    blocks: Sequence[UUID], ui_url: str, pools: Sequence[str] = (), patience: timedelta = PATIENCE
) -> list[AutomationCore]:
    """Return the automations that notify people of late runs, and of work pools without a worker.

    Args:
        blocks: ids of the documents of Prefect's notification blocks.
        ui_url: URL of the Prefect UI, for links.
        pools: further names of work pools.
        patience: time until they do, at least 10 s.
    """
    minutes = f"{patience.total_seconds() / 60:g} minutes"
    remedy = "Start a worker: pairmill up --worker"
    return [
        AutomationCore(
            name="pairmill: notify when a run is late",
            description=f"A flow run has not begun {minutes} after its time: no worker takes it.",
            trigger=_missing(
                "prefect.flow-run.Late", {f"prefect.flow-run.{name}" for name in BEGINS}, patience, **_OF_OUR_FLOWS
            ),
            actions=_send(
                blocks,
                "A scheduled run is late",
                f"{{{{ flow.name }}}} run {{{{ flow_run.name }}}} has not begun {minutes} after its time.\n{remedy}\n"
                f"Page: {ui_url}/runs/flow-run/{{{{ flow_run.id }}}}",
            ),
        ),
        AutomationCore(
            name="pairmill: notify when a work pool has no worker",
            description=f"A work pool of pairmill has had no worker for {minutes}.",
            trigger=_missing(
                "prefect.work-pool.not-ready",
                {"prefect.work-pool.ready", "prefect.work-pool.deleted"},
                patience,
                match={
                    "prefect.resource.id": "prefect.work-pool.*",
                    "prefect.resource.name": sorted({"pairmill", "pairmill-*", *pools}),
                },
            ),
            actions=_send(
                blocks,
                "A work pool has no worker",
                f"No worker has polled {{{{ work_pool.name }}}} for {minutes}, so its runs do not begin.\n{remedy}\n"
                f"Page: {ui_url}/work-pools",
            ),
        ),
    ]


def _send(blocks: Sequence[UUID], subject: str, body: str) -> list[ActionTypesOrUnknown]:
    return [SendNotification(block_document_id=block, subject=subject, body=body) for block in blocks]
