"""Print `docs/state-machines.md` from the transition tables in code: `python -m docs.state_machines`.

Every table is data that the program itself goes by, so page and program cannot disagree; a test compares the page.
"""  # noqa: INP001  (the folder holds pages; this one module is run with -m from the root)

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from argosy_client import instruction, renewal, yielding
from argosy_client.models import deployment
from argosy_client.upgrading import steps
from argosy_client.worker import priority
from argosy_common.blobs import receiver, sender
from argosy_common.link import connection
from argosy_common.secagg import round as secure_round
from argosy_server import registry
from argosy_server.models import rollout
from argosy_server.store import rows

HEAD = """# State machines

Made by `make docs` from the transition tables in code; `make lint` and a test compare the two. What a table does not
list does not happen there. Steps that stay in their state are in the tables and not in the pictures.
"""

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum | str)

Step = tuple[str, str, str]
"""From, event, to. The event is empty where the table names states only."""


@dataclass(frozen=True)
class Machine:
    """One table: its title, what it is about, where it lives, the state it begins in, and its steps."""

    title: str
    about: str
    source: str
    begins: str
    steps: list[Step]
    after: str = ""
    """Markdown that follows the table."""


def machines() -> list[Machine]:
    """Return all machines, the operator's first."""
    return [
        Machine(
            "A device, at the coordinator",
            "In the coordinator's database. A device that is not there yet begins as `pending` or, with a token that "
            "approves by itself, as `enrolled`. `request`: it asks, with a token that does not; `issue`: it gets a "
            "certificate; the others are an operator's, and time's.",
            "server/argosy_server/store/rows.py",
            rows.DeviceState.PENDING.value,
            _moved(rows.DEVICE_TRANSITIONS),
        ),
        Machine(
            "The certificate's renewal, on a device",
            "In memory; what `renewing/` holds decides where a new process begins. `useless`: the broker refuses the "
            "new pair, or it has ended before it could be tried.",
            "client/argosy_client/renewal.py",
            renewal.Step.ASKING.value,
            _moved(renewal.TRANSITIONS),
        ),
        Machine(
            "The priority of training, on a device",
            "In memory. `late`: a model's requests take longer than they are to; `calm`: all are well within that; "
            "`in vain`: it was paused for long, and they are late all the same.",
            "client/argosy_client/yielding.py",
            priority.Priority.FULL.value,
            _moved(yielding.TRANSITIONS),
        ),
        Machine(
            "A run",
            "In the coordinator's database. Of two verdicts on a run the first one stands.",
            "server/argosy_server/store/rows.py",
            rows.RunStatus.PENDING.value,
            _followed(rows.RUN_TRANSITIONS),
        ),
        Machine(
            "An instruction, at the coordinator",
            "In the coordinator's database. The check and the change are one SQL statement, so an instruction is "
            "answered once.",
            "server/argosy_server/store/rows.py",
            rows.InstructionState.QUEUED.value,
            _followed(rows.INSTRUCTION_TRANSITIONS),
        ),
        Machine(
            "An instruction, at the device",
            "In the device's journal.",
            "client/argosy_client/instruction.py",
            instruction.State.RECEIVED.value,
            _moved(instruction.TRANSITIONS),
            after=_resumes(instruction.RESUME),
        ),
        Machine(
            "A rollout of a model, or of the devices' packages",
            "In the coordinator's database. `advance`: the next ring opens; `pause`, `resume` and `stop` are an "
            "operator's; the others follow from what devices report, and from time.",
            "server/argosy_server/models/rollout.py",
            rollout.RolloutState.RUNNING.value,
            _moved(rollout.TRANSITIONS),
        ),
        Machine(
            "A deployment of a model's version, at the device",
            "In `deployment.json` of the model's folder. A new deploy begins at `fetching`, whatever became of the one "
            "before.",
            "client/argosy_client/models/deployment.py",
            deployment.State.FETCHING.value,
            _moved(deployment.TRANSITIONS),
            after=_resumes(deployment.RESUME),
        ),
        Machine(
            "An upgrade of a device's packages, on the device",
            "In `upgrade.json`, which root writes. An order begins at `installing`, or ends as `refused`. `fail`: "
            "it could not be installed, or the daemon did not connect in time; `back`: the coordinator's word.",
            "client/argosy_client/upgrading/steps.py",
            steps.Step.INSTALLING.value,
            _moved(steps.TRANSITIONS),
            after=_resumes(steps.RESUME),
        ),
        Machine(
            "The presence of a device",
            "In the coordinator's memory; made again from retained births after every start. In `lost`, what the "
            "device owed is answered for it with `device-lost`.",
            "server/argosy_server/registry.py",
            registry.Presence.UNSEEN.value,
            _moved(registry.TRANSITIONS),
        ),
        Machine(
            "The sending end of a blob",
            "In memory, one for each blob and peer.",
            "common/argosy_common/blobs/sender.py",
            _name(sender.SenderState.OFFERED),
            _moved(sender.SENDER_TRANSITIONS),
        ),
        Machine(
            "The receiving end of a blob",
            "In memory, one for each blob and peer; what arrived is on disk with a bitmap.",
            "common/argosy_common/blobs/receiver.py",
            _name(receiver.ReceiverState.ASKED),
            _moved(receiver.RECEIVER_TRANSITIONS),
        ),
        Machine(
            "A secure round of one group",
            "In the run process. The set is on disk before `voting`, its certificate before `summing`.",
            "common/argosy_common/secagg/round.py",
            secure_round.State.COLLECTING.value,
            _moved(secure_round.TRANSITIONS),
        ),
        Machine(
            "A connection to the broker",
            "In memory; after `closed` the link makes a new connection.",
            "common/argosy_common/link/connection.py",
            connection.Phase.CONNECTING.value,
            _followed(connection.TRANSITIONS),
        ),
    ]


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(_section(machine) for machine in machines())


def _section(machine: Machine) -> str:
    return (
        f"\n## {machine.title}\n\n{machine.about}\nTable: [{machine.source}](../{machine.source}).\n\n"
        f"{_picture(machine)}\n{_table(machine.steps)}{machine.after}"
    )


def _picture(machine: Machine) -> str:
    moving = [step for step in machine.steps if step[0] != step[2]]
    states = dict.fromkeys(state for step in machine.steps for state in (step[0], step[2]))
    ends = [state for state in states if all(step[0] != state for step in moving)]
    arrows = [f"    {before} --> {to}{f': {event}' if event else ''}" for before, event, to in moving]
    lines = [f"    [*] --> {machine.begins}", *arrows, *(f"    {state} --> [*]" for state in ends)]
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n"


def _table(steps: Iterable[Step]) -> str:
    steps = list(steps)
    named = any(event for _, event, _ in steps)
    head = "| from | event | to |\n|---|---|---|\n" if named else "| from | to |\n|---|---|\n"
    return head + "".join(f"| {before} | {f'{event} | ' if named else ''}{to} |\n" for before, event, to in steps)


def _resumes(table: Mapping[S, E]) -> str:
    lines = "".join(f"| {state} | {resume} |\n" for state, resume in table.items())
    return f"\nWhat the daemon's next start does with it:\n\n| found in | does |\n|---|---|\n{lines}"


def _moved(table: Mapping[tuple[S, E], S]) -> list[Step]:
    """Return the steps of a table of (state, event) → state."""
    return [(_name(before), _name(event), _name(to)) for (before, event), to in table.items()]


def _followed(table: Mapping[S, frozenset[S]]) -> list[Step]:
    """Return the steps of a table of state → states that may follow, in the order in which the states are declared."""
    order = list(table)
    return [(_name(before), "", _name(to)) for before in order for to in sorted(table[before], key=order.index)]


def _name(word: Enum | str) -> str:
    """Return a state or an event as a word; numbered ones go by their names."""
    if isinstance(word, Enum):
        word = word.value if isinstance(word.value, str) else word.name.lower()
    return str(word).replace("_", "-")


if __name__ == "__main__":
    sys.stdout.write(page())
