"""The choice of `argosy-device plan`, beside the version that it was made for: `work/plan.json`.

It is of that version and that file alone: a plan that came there in another way is told of and ignored.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from argosy_client.inference.folder import Version
from argosy_common.files import write_atomic
from argosy_common.logs import get_logger

log = get_logger(__name__)

FILE = "plan.json"
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Plan(BaseModel):
    """What was chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """`name:version`."""
    onnx: str
    """The digest of the file that was measured."""
    way: Literal["local", "split", "remote"]
    tensor: str = ""
    """What goes to the coordinator."""
    timeout_ms: Annotated[float, Field(gt=0, le=60_000, allow_inf_nan=False)] = 1000.0
    """How long the coordinator is waited for; then this board goes on by itself."""
    expected_ms: Milliseconds = 0.0
    """What the coordinator took, the way there and back included."""
    fallback_ms: Milliseconds = 0.0
    """What this board takes in its place."""
    local_ms: Milliseconds = 0.0
    total_ms: Milliseconds = 0.0
    reason: str = ""


def read_plan(version: Version) -> Plan | None:
    """Return the plan for a version; None where there is none that was made for it."""
    path = version.path / "work" / FILE
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("plan.unreadable", path=path, why=str(error).splitlines()[0])
        return None
    if (plan.model, plan.onnx) != (version.manifest.reference, version.manifest.onnx.digest):
        log.warning("plan.of_another_version", path=path, plan=plan.model, version=version.manifest.reference)
        return None
    return plan


def stamp(version: Version) -> tuple[int, int] | None:
    """Return what changes whenever a version's plan does; None while there is none."""
    try:
        told = (version.path / "work" / FILE).stat()
    except OSError:
        return None
    return told.st_ino, told.st_mtime_ns


def write_plan(version: Version, plan: Plan) -> None:
    """Put a plan in force, whole or not at all.

    Raises:
        OSError: as the file system reports it.
    """
    write_atomic(version.work / FILE, plan.model_dump_json(indent=2).encode())


def forget_plan(version: Version) -> bool:
    """Remove the plan; return whether there was one."""
    try:
        (version.path / "work" / FILE).unlink()
    except FileNotFoundError:
        return False
    return True
