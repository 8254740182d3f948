"""Running models on the board: which backend, in a process of its own, and how other programs ask it.

    from argosy_client.inference import Client

    with Client() as models:
        probabilities = models.infer("har", window)          # numpy in, numpy out

`process.py` serves; `choose.py` and `trial.py` find the best backend that gives right answers; `backends/` are the
plug-ins; `host.py` is the daemon's side, which never imports numpy: so this package imports nothing until it is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argosy_client.inference.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> object:
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from argosy_client.inference.client import Client  # noqa: PLC0415  (see above)

    return Client
