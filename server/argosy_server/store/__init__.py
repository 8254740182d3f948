"""The coordinator's memory: tokens, devices, runs and what happened in them, models, rollouts, audit log, in SQL.

Rules:
- Callers get frozen rows (`rows.py`), never database objects.
- One `Store` is shared by all threads of the daemon (link, API, run supervision). Every call is one short transaction
  on a connection of its own; the writers of one process queue on a lock, so that none meets a busy database.
- A call that returned has been synced to disk (WAL with synchronous=FULL; PostgreSQL's own default).
- Text from outside may be anything: NUL and lone surrogates are replaced, numbers that JSON lacks become null.
- The database failing is `StorageFailed`, a full disk `DiskFull`; a caller may try again later, nothing was half done.
"""

from argosy_server.store.rows import (
    AuditRow,
    DeviceRow,
    DeviceState,
    EnrolmentRow,
    EventRow,
    InstructionAnswer,
    InstructionRow,
    InstructionState,
    ModelRow,
    NewInstruction,
    ProgressRow,
    RolloutDeviceRow,
    RolloutRow,
    RunRow,
    RunStatus,
    ShutOut,
    TokenRow,
)
from argosy_server.store.store import Store

__all__ = [
    "AuditRow",
    "DeviceRow",
    "DeviceState",
    "EnrolmentRow",
    "EventRow",
    "InstructionAnswer",
    "InstructionRow",
    "InstructionState",
    "ModelRow",
    "NewInstruction",
    "ProgressRow",
    "RolloutDeviceRow",
    "RolloutRow",
    "RunRow",
    "RunStatus",
    "ShutOut",
    "Store",
    "TokenRow",
]
