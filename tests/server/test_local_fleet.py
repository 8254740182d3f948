"""What a local fleet leaves behind: its folder, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from argosy_server.local_fleet import LocalFleet


def test_a_deep_folder_gets_a_socket_path_that_fits_and_that_goes_with_the_fleet(tmp_path: Path) -> None:
    fleet = LocalFleet(tmp_path / ("deep" * 30))
    assert len(os.fsencode(fleet.socket)) < 108
    assert fleet.socket.parent.is_dir()
    fleet.stop()
    assert not fleet.socket.parent.exists()
    assert fleet.folder.is_dir()
