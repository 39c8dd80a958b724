"""The automations that no deployment owns: a dead flow run is marked Crashed; people hear of failures and new champions.

Those that start one flow after another are the `triggers` of infra/prefect.yaml.
"""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypesOrUnknown, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from flows.events import PROMOTED

NAMES = ("pipeline", "curate", "train", "evaluate")
"""The flows that are watched."""
SILENCE = timedelta(seconds=75)
"""A live flow run sends a heartbeat each 30 s (PREFECT_FLOWS_HEARTBEAT_FREQUENCY allows no less): one may be lost."""
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Paused", "Suspended", "AwaitingRetry")
TEXT_LIMIT = 600
"""Characters of an error that a notification quotes."""

# An error may quote an address from the web: no markup, link target or mention of it may work where it is read.
_QUOTED = (
    f"{{{{ event.resource['prefect.state-message'] | string | truncate({TEXT_LIMIT})"
    " | replace('<', '‹') | replace('>', '›') | replace('@', '(at)') | replace('`', \"'\") }}"
)


def _of_our_flows() -> list[dict[str, str | list[str]]]:
    return [{"prefect.resource.role": "flow", "prefect.resource.name": list(NAMES)}]


def zombie(silence: timedelta = SILENCE) -> AutomationCore:
    """Marks a flow run whose heartbeats stop `Crashed`: killed by command, out of memory, power loss.

    Args:
        silence: without a heartbeat; 10 s at least.
    """
    return AutomationCore(
        name="pairmill: a dead run has crashed",
        description=f"No heartbeat for {silence.total_seconds():.0f} s: the flow run's process is gone.",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{name}" for name in ENDS)},
            match={"prefect.resource.id": "prefect.flow-run.*"},  # pyright: ignore[reportArgumentType]
            match_related=_of_our_flows(),  # pyright: ignore[reportArgumentType]
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name=None,
                force=False,
                message=f"No heartbeat for {silence.total_seconds():.0f} s: its process is gone.",
            )
        ],
    )


def notifications(blocks: Sequence[UUID], ui_url: str) -> list[AutomationCore]:
    """Tell people, through Prefect's notification blocks, of each failed or crashed run and of each new champion.

    Args:
        blocks: ids of the blocks' documents.
        ui_url: address of the Prefect UI, for links.
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
    return [
        AutomationCore(
            name="pairmill: tell of a failed run",
            description="A flow run failed or crashed: which, at which stage, why, and what to do.",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
                match={"prefect.resource.id": "prefect.flow-run.*"},  # pyright: ignore[reportArgumentType]
                match_related=_of_our_flows(),  # pyright: ignore[reportArgumentType]
                posture=Posture.Reactive,
            ),
            actions=_send(
                blocks,
                "{{ event.resource['prefect.resource.name'] }} {{ event.resource['prefect.state-name'] | lower }}",
                failure,
            ),
        ),
        AutomationCore(
            name="pairmill: tell of a new champion",
            description="A model passed the gate and got its alias: which, how good, where to look.",
            trigger=EventTrigger(expect={PROMOTED}, posture=Posture.Reactive),
            actions=_send(
                blocks,
                "New {{ event.payload.alias }}: {{ event.payload.model_name }} version {{ event.payload.version }}",
                champion,
            ),
        ),
    ]


def _send(blocks: Sequence[UUID], subject: str, body: str) -> list[ActionTypesOrUnknown]:
    return [SendNotification(block_document_id=block, subject=subject, body=body) for block in blocks]
