"""Power cuts: changes of the file system that stop happening at a chosen one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class PowerCut(BaseException):
    """No code of ours catches it."""


class Fuse:
    """Lets `allowed` changes of the file system happen, then cuts the power for all further ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
        self.left = allowed
        self.blown = False
        for name in ("replace", "unlink", "rmdir", "mkdir"):
            monkeypatch.setattr(Path, name, self._guard(getattr(Path, name)))

    def _guard(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(path: Path, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (whatever pathlib takes and gives)
            if path.name.endswith(".partial") and real.__name__ == "unlink":
                return real(path, *args, **kwargs)
            if self.left == 0:
                self.blown = True
                raise PowerCut
            self.left -= 1
            return real(path, *args, **kwargs)

        return guarded
