"""The device's settings: `/etc/argosy/device.toml`, environment variables `ARGOSY_DEVICE_*`, and flags."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from argosy_common.settings import Settings

DEFAULT_FILE = Path("/etc/argosy/device.toml")
NodeValue = bool | int | float | str


def default_state_dir() -> Path:
    """Return `/var/lib/argosy-device` for root, and the user's XDG state folder for everybody else."""
    if os.geteuid() == 0:
        return Path("/var/lib/argosy-device")
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "argosy-device"


class WorkerTable(BaseModel):
    """`[worker]`: what the process that runs apps may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_mb: Annotated[int, Field(ge=64)] | None = None
    """Resident megabytes; absent: no limit of ours."""
    time_s: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds for one instruction."""


class DeviceSettings(Settings):
    """What a person may set on a device."""

    model_config = SettingsConfigDict(env_prefix="ARGOSY_DEVICE_")

    state_dir: Path = Field(default_factory=default_state_dir)
    """Keys, certificate, journal, blobs: everything that the device keeps."""
    name: Annotated[str, Field(min_length=1, max_length=128)] = Field(default_factory=socket.gethostname)
    """What people call this board."""
    worker: WorkerTable = WorkerTable()
    node_config: dict[str, NodeValue] = Field(default_factory=dict)
    """Handed to the app as its context's `node_config`."""
    heartbeat_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    resend_s: Annotated[float, Field(gt=0, le=600)] = 6.0
    """A reply without a receipt is sent again after this many seconds."""
    death_delay_s: Annotated[int, Field(ge=0, le=3600)] = 30
    """How long the broker waits for this device to come back before it tells that it is gone."""
    cache_mb: Annotated[int, Field(ge=16)] = 1024
    """Megabytes of models and apps kept for the next round."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def load_settings(file: Path | None, **flags: object) -> DeviceSettings:
    """Read the settings from `file`, or from `/etc/argosy/device.toml` if that exists; raises `SettingsInvalid`."""
    return DeviceSettings.load(file or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None), **flags)
