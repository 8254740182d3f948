"""Where the coordinator keeps its state and its admin socket. No more than paths: the `argosy` command starts fast."""

from __future__ import annotations

import os
from pathlib import Path

SOCKET_NAME = "admin.sock"
DEFAULT_CONFIG = Path("/etc/argosy/coordinator.toml")
SYSTEM_STATE = Path("/var/lib/argosy")
SYSTEM_RUNTIME = Path("/run/argosy")


def default_state_dir() -> Path:
    """Return `$STATE_DIRECTORY` (systemd), /var/lib/argosy for root, else the user's XDG state directory."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    return SYSTEM_STATE if os.geteuid() == 0 else user_state_dir()


def user_state_dir() -> Path:
    """Return the state directory of a coordinator that an ordinary user runs."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "argosy"


def find_socket() -> Path:
    """Return the admin socket of this machine's coordinator: the first that exists, else the likeliest."""
    candidates = [folder / SOCKET_NAME for folder in (SYSTEM_RUNTIME, user_state_dir(), SYSTEM_STATE)]
    return next((path for path in candidates if path.exists()), default_state_dir() / SOCKET_NAME)
