"""A device's daemon whose models are run by a `Judge`: `python judging_device.py`, with the daemon's environment."""

from __future__ import annotations

from argosy_client.daemon import run
from argosy_client.settings import load_settings
from argosy_common import logs
from tests.client.models.board import Judge

if __name__ == "__main__":
    settings = load_settings(None)
    logs.configure(settings.log_level)
    run(settings, Judge(settings.state_dir / "models"))
