"""`argosy-device`: the one place that exits with an error's code.

`run` becomes the daemon without importing the command line's libraries, which a board would carry in memory for ever;
all other commands live in `commands.py`.
"""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""As shells say it of a command that SIGINT ended."""


def main() -> None:
    """Be `argosy-device`. Ctrl-C ends it without a traceback, also while it still imports."""
    try:
        sys.exit(_run())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run() -> int:
    if sys.argv[1:2] == ["run"]:
        from argosy_client.daemon import main as run_daemon  # noqa: PLC0415  (this module imports neither half)

        return run_daemon(sys.argv[2:])
    from argosy_client.commands import main as run_command  # noqa: PLC0415  (likewise)

    return run_command()


if __name__ == "__main__":
    main()
