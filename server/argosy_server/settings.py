"""The coordinator's settings: a TOML file, `ARGOSY_COORDINATOR_*` variables and a few flags (docs/operating.md).

    site = "default"
    state_dir = "/var/lib/argosy"
    [broker]
    kind = "auto"                 # auto, mosquitto, iotcore or external
    [enrolment]
    port = 8444
    [runs]
    device_wait_s = 60

The defaults are those of a coordinator that boards can reach: the broker and the enrolment service listen on all
addresses, and both let nobody in without a certificate or a token. The admin API is a Unix socket and never a port.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import psutil
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from argosy_common.coordinator_https import https_url
from argosy_common.settings import Settings
from argosy_server.paths import DEFAULT_CONFIG, SOCKET_NAME, default_state_dir

Port = Annotated[int, Field(ge=0, le=65535)]
"""0 lets the operating system choose a free one."""
SiteName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
"""A site is a part of every topic, so its name is lower-case letters, digits and inner hyphens."""
Seconds = Annotated[float, Field(gt=0, le=7 * 86400, allow_inf_nan=False)]

FLAGS_VARIABLE = "_ARGOSY_COORDINATOR_FLAGS"
"""Carries the flags, as JSON, from the command to the daemon that takes its place and may read the settings again."""

LONGEST_SOCKET_PATH = 107
"""Bytes that fit into a Unix socket's address on Linux, without the closing zero."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BrokerTable(_Table):
    """`[broker]`: who carries the messages."""

    kind: Literal["auto", "mosquitto", "iotcore", "external"] = "auto"
    """`auto` takes Mosquitto where it is installed, and otherwise the embedded broker, on loopback only."""
    host: str = "0.0.0.0"  # noqa: S104  (boards must reach it; every client shows a certificate)
    port: Port = 8883
    url: str | None = None
    """`mqtts://host:port` of an external broker."""
    advertise: list[str] = []
    """Host names and addresses that devices find the broker at; by default those of this machine."""

    @field_validator("url")
    @classmethod
    def _is_mqtts(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme != "mqtts" or not parts.hostname:
            raise ValueError("it must read mqtts://host:port")
        return url

    @model_validator(mode="after")
    def _external_has_url(self) -> Self:
        if (self.kind == "external") != (self.url is not None):
            raise ValueError('kind = "external" and url go together: set both or neither')
        return self

    @property
    def external_address(self) -> tuple[str, int] | None:
        """Host and port of the external broker, or None when the broker is ours."""
        if self.url is None:
            return None
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 8883


class EnrolmentTable(_Table):
    """`[enrolment]`: where devices join, and download large blobs."""

    host: str = "0.0.0.0"  # noqa: S104  (boards must reach it; nothing is given without a token)
    port: Port = 8444
    advertise: Annotated[str, AfterValidator(https_url)] | None = None
    """The URL that `argosy token create` prints; by default made from this machine's name and the port."""
    serve_blobs: bool = True
    """Let devices download blobs of 8 MB and more here; where they cannot, or may not, blobs go by MQTT."""

    approval_s: Seconds = 86400.0
    """How long a device that joined with a token of `--no-approve` waits for an operator before its request expires."""
    certificate_s: Annotated[float, Field(ge=10, le=825 * 86400, allow_inf_nan=False)] = 7 * 86400.0
    """How long a device's certificate is good for. The device renews it after two thirds of that."""
    grace_s: Annotated[float, Field(ge=0, le=3650 * 86400, allow_inf_nan=False)] = 30 * 86400.0
    """How long after its certificate's end a device that was away may still renew it by its identity key alone."""


class RunsTable(_Table):
    """`[runs]`: how runs are driven."""

    device_wait_s: Seconds = 60.0
    """How long a strategy that wants more devices than are online is made to wait before the run fails by name."""
    reply_timeout_s: Seconds = 3600.0
    """How long a device may take over one instruction when the strategy sets no timeout of its own."""
    check_arrays: bool = True
    """Refuse replies whose arrays have other names, shapes or types than those that were sent."""
    resend_s: Seconds = 6.0
    """An instruction that the device has not accepted is sent again after this long."""
    grace_s: Seconds = 10.0
    """How long a device may stay away, after the broker's delay of its will, before what it owes is answered for it."""


class InferenceTable(_Table):
    """`[inference]`: whether this machine runs models, or parts of them, for devices."""

    enabled: bool = False
    """Off unless set: it costs this machine's processor. Devices fall back to running everything themselves."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Processor cores that one request may take."""
    queue: Annotated[int, Field(ge=1, le=1000)] = 16
    """Requests at once, the one that runs included; further ones are told that it is busy."""


class DriftTable(_Table):
    """`[drift]`: what follows when boards see other data than their model was trained on."""

    repeat_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Start a model's run again once so large a share of the boards that tell drift; None: never."""
    least: Annotated[int, Field(ge=1)] = 3
    """The fewest boards that must have told how far what they see is from what it was trained on."""
    rest_s: Seconds = 7 * 86400.0
    """Not within so long of the last start of that app."""


class CoordinatorSettings(Settings):
    """All settings of the coordinator daemon."""

    model_config = SettingsConfigDict(env_prefix="ARGOSY_COORDINATOR_")

    site: SiteName = "default"
    state_dir: Path = Field(default_factory=default_state_dir)
    socket: Path | None = None
    database: str | None = None
    blobs: Path | None = None
    broker: BrokerTable = BrokerTable()
    enrolment: EnrolmentTable = EnrolmentTable()
    runs: RunsTable = RunsTable()
    inference: InferenceTable = InferenceTable()
    drift: DriftTable = DriftTable()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, level: object) -> object:
        return level.upper() if isinstance(level, str) else level

    @field_validator("state_dir", "socket", "blobs", mode="after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @model_validator(mode="after")
    def _socket_fits(self) -> Self:
        length = len(os.fsencode(self.socket_path))
        if length > LONGEST_SOCKET_PATH:
            raise ValueError(
                f"the admin socket {self.socket_path} has {length} bytes in its path and Linux allows "
                f"{LONGEST_SOCKET_PATH}; set socket to a shorter one"
            )
        return self

    @property
    def socket_path(self) -> Path:
        """The admin API's Unix socket: as set, else in systemd's runtime directory, else in the state directory."""
        runtime = os.environ.get("RUNTIME_DIRECTORY")
        if self.socket is not None:
            return self.socket
        return (Path(runtime.split(":")[0]) if runtime else self.state_dir) / SOCKET_NAME

    @property
    def database_url(self) -> str:
        """SQLAlchemy's URL of the database: SQLite in the state directory unless set."""
        return self.database or f"sqlite:///{self.state_dir / 'coordinator.db'}"

    @property
    def blobs_dir(self) -> Path:
        """Where models, updates and app bundles lie."""
        return self.blobs or self.state_dir / "blobs"


def load_settings(
    config: Path | None = None, state_dir: Path | None = None, log_level: str | None = None
) -> CoordinatorSettings:
    """Read the settings from the file `config`, or the default one if it exists; a flag that is None was not given.

    Raises:
        SettingsInvalid: a file, a variable or a flag cannot be used.
    """
    file = config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    return CoordinatorSettings.load(file, state_dir=state_dir, log_level=log_level)


def local_hosts() -> list[str]:
    """Return this machine's name and addresses, the most useful to a device first and loopback last."""
    addresses = [
        address.address
        for links in psutil.net_if_addrs().values()
        for address in links
        if address.family == socket.AF_INET and not address.address.startswith(("127.", "169.254."))
    ]
    return [*dict.fromkeys([socket.gethostname(), *sorted(addresses), "localhost", "127.0.0.1"])]
