"""The device's settings: `/etc/argosy/device.toml`, environment variables `ARGOSY_DEVICE_*`, and flags."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from argosy_client.upgrading.steps import ROOT_FOLDER
from argosy_common.files import write_atomic
from argosy_common.settings import Settings

MAX_NAME = 128
NAME_FILE = "name"
DEFAULT_FILE = Path("/etc/argosy/device.toml")


def default_state_dir() -> Path:
    """Return `$STATE_DIRECTORY` (systemd), `/var/lib/argosy-device` for root, else the user's XDG state folder."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/argosy-device")
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "argosy-device"


def _scalar(value: object) -> object:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("it must be a number, a text or true or false")  # noqa: TRY004  (pydantic takes no TypeError)
    return value


NodeValue = Annotated[bool | int | float | str, BeforeValidator(_scalar)]


def _short_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", value):
        raise ValueError("it must be letters without accents, digits, '.', '_' and '-', at most 64 of them")
    return value


ShortName = Annotated[str, AfterValidator(_short_name)]
"""A plain name, or none; two boards must be able to have the very same one."""


class WorkerTable(BaseModel):
    """`[worker]`: what the process that runs apps may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory_mb: Annotated[int, Field(ge=64)] | None = None
    """Resident megabytes; absent: no limit of ours."""
    time_s: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds for one instruction."""


class InferenceTable(BaseModel):
    """`[inference]`: how models are served on this board, to its other programs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    """Serve the models that are rolled out to this board."""
    socket: Path | None = None
    """Where they are served; by default `inference.sock` in the state directory."""
    http: Annotated[int, Field(ge=0, le=65535)] | None = None
    """A port of 127.0.0.1 where they are served over HTTP as well; 0: a free one."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    queue: Annotated[int, Field(ge=0, le=10_000)] = 16
    """Requests of one model that may wait; further ones are told that it is busy."""
    budget_mb: Annotated[float, Field(ge=16)] | None = None
    """Memory that a backend may take on a model; one that takes more is not chosen."""
    target_ms: Annotated[float, Field(gt=0, le=60_000)] | None = None
    """Milliseconds within which 95 of 100 requests are to be answered: where they are not, training yields. By default
    twice what the model took in its trial, or two milliseconds more."""
    report_s: Annotated[float, Field(ge=1, le=86400)] = 3600.0
    """Seconds between two reports on a model that is out of its probation: its figures, and its drift."""


class UpgradeTable(BaseModel):
    """`[upgrade]`: new versions of the daemon's own packages, at the coordinator's word. Root reads the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed: bool = False
    health_s: Annotated[float, Field(ge=1, le=86400)] = 300.0
    """Seconds within which the daemon of a new version must be connected; else the version before is put back."""
    folder: Path = ROOT_FOLDER
    """Where the program that installs keeps its record; where it is missing, nothing can be upgraded."""


class DeviceSettings(Settings):
    """What a person may set on a device."""

    model_config = SettingsConfigDict(env_prefix="ARGOSY_DEVICE_")

    state_dir: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = Field(
        default_factory=default_state_dir
    )
    """Keys, certificate, journal, blobs: everything that the device keeps."""
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)] | None = None
    """What people call this board; absent: the name it joined with, or its host name."""
    worker: WorkerTable = WorkerTable()
    inference: InferenceTable = InferenceTable()
    upgrade: UpgradeTable = UpgradeTable()
    node_config: dict[str, NodeValue] = Field(default_factory=dict)
    """Handed to the app as its context's `node_config`."""
    site: ShortName = ""
    """Where in the site that it enrolled at this board stands; empty: that site has but one place."""
    shard: ShortName = ""
    """Which part of the data there it holds; boards of one site, `site` and shard hold the same."""
    metered: bool | None = None
    """Whether its connection costs by the byte; None: unknown."""
    heartbeat_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    reconnect_s: Annotated[float, Field(ge=1, le=3600)] = 8.0
    """The longest pause between two attempts to reach the broker; a random part of it is taken. In a fleet of more than
    4,000 devices, 2 ms for each is kinder to the broker."""
    resend_s: Annotated[float, Field(gt=0, le=600)] = 6.0
    """A reply without a receipt is sent again after this many seconds."""
    death_delay_s: Annotated[int, Field(ge=0, le=3600)] = 30
    """How long the broker waits for this device to come back before it tells that it is gone."""
    cache_mb: Annotated[int, Field(ge=16)] = 1024
    """Megabytes of models and apps kept for the next round."""
    secure: Literal["allowed", "required"] = "allowed"
    """`required`: take part in runs with secure aggregation only."""
    secure_least: Annotated[int, Field(ge=4, le=64)] = 4
    """The fewest devices of a secure group that it takes part in. A quarter of a group may collude with the
    coordinator, which forms the groups: in a large fleet, more than four make each device safer."""
    secure_ciphers: tuple[Literal["aes256-ctr", "chacha20"], ...] = ()
    """The ciphers that it accepts for masks; empty: all."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def app_config(self) -> dict[str, bool | int | float | str]:
        """What the app is told of this board: `node_config`, with its site and shard where it does not name its own."""
        place = {"site": self.site, "shard": self.shard}
        return {**{key: value for key, value in place.items() if value}, **self.node_config}


def shown_name(settings: DeviceSettings) -> str:
    """Return what people call this board: the name set, the one it joined with, or its host name."""
    try:
        joined = (settings.state_dir / NAME_FILE).read_text(encoding="utf-8").strip()[:MAX_NAME]
    except (OSError, UnicodeDecodeError):
        joined = ""  # it joined without one
    return settings.name or joined or socket.gethostname()[:MAX_NAME] or "device"


def remember_name(settings: DeviceSettings) -> None:
    """Keep the name that was given at `join` for the daemon, which is started without it."""
    if settings.name is not None:
        write_atomic(settings.state_dir / NAME_FILE, settings.name.encode())


def load_settings(file: Path | None, **flags: object) -> DeviceSettings:
    """Read the settings from `file`, or from `/etc/argosy/device.toml` if that exists; raises `SettingsInvalid`."""
    return DeviceSettings.load(file or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None), **flags)
