"""What tests of several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("short", max_examples=40)
settings.register_profile("thorough", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))  # `make test-slow` is thorough

for size in ("COLUMNS", "LINES"):  # pytest-xdist sets them in its workers, and our commands would wrap by them
    os.environ.pop(size, None)


@pytest.fixture(scope="session")
def har_data() -> Path:
    """The prepared recordings, where somebody prepared them (`make test` does): tests fetch nothing."""
    folder = Path(os.environ.get("HAR_DATA", Path(__file__).parents[1] / ".demo" / "data"))
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"no recordings in {folder}: run `python examples/har/prepare.py {folder}`, or set HAR_DATA")
    return folder
