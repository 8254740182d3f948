"""The demonstration as a whole, or its pieces that need no coordinator.

python demo.py [--rounds N] [--folder .demo]
python demo.py prepare FOLDER
python demo.py alone FOLDER --out alone.json
python demo.py report history.json alone.json --png curves.png --out summary.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from argosy_common.errors import ArgosyError

APP = Path(__file__).resolve().parent
if str(APP) not in sys.path:
    sys.path.insert(0, str(APP))  # so that this also runs as `python -m examples.har.demo`

from alone import DEVICES, TEST_SUBJECTS, alone_accuracy  # noqa: E402  # the folder must be on the path first
from live import demonstrate  # noqa: E402  # likewise
from prepare import PreparationFailed, prepare  # noqa: E402  # likewise
from report import plot, summary, summary_text  # noqa: E402  # likewise

__all__ = [
    "DEVICES",
    "TEST_SUBJECTS",
    "PreparationFailed",
    "alone_accuracy",
    "plot",
    "prepare",
    "summary",
    "summary_text",
]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Together against alone on the HAPT recordings.")
    parser.add_argument("--rounds", type=int, help="instead of the app's own number")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where data, logs and the picture go")
    commands = parser.add_subparsers(dest="command")
    command = commands.add_parser("prepare", help="get the recordings and write one file a person")
    command.add_argument("folder", type=Path)
    command = commands.add_parser("alone", help="what each device reaches by itself")
    command.add_argument("folder", type=Path)
    command.add_argument("--as-many-rounds", type=int, help="as the federation had")
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("report", help="the picture and the summary")
    command.add_argument("history", type=Path)
    command.add_argument("alone", type=Path)
    command.add_argument("--png", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        if arguments.command is None:
            demonstrate(arguments.folder.absolute(), rounds=arguments.rounds)
        elif arguments.command == "prepare":
            prepare(arguments.folder)
        elif arguments.command == "alone":
            config = {"num-server-rounds": arguments.as_many_rounds} if arguments.as_many_rounds else {}
            arguments.out.write_text(json.dumps(alone_accuracy(arguments.folder, config=config), indent=2))
        else:
            history, alone = (json.loads(path.read_text()) for path in (arguments.history, arguments.alone))
            result = summary(history, alone)
            arguments.out.write_text(json.dumps(result, indent=2))
            plot(history, alone, arguments.png)
            print(summary_text(result))
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    except ArgosyError as error:
        sys.exit(f"{error.message}\n{error.remedy_text}")
    except (PreparationFailed, OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
