"""`argosy up`: a whole fleet on this machine, to see it work."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Annotated

import typer

from argosy_common.bundle import AppManifest
from argosy_server.cli.codecs import CodecArraysOption, CodecDownOption, CodecOption, codec_request
from argosy_server.cli.configuration import ConfigOption, parse_config
from argosy_server.cli.options import examples
from argosy_server.cli.secure import SecureOption, secure_request
from argosy_server.cli.straggler import (
    AsyncOption,
    DeadlineOption,
    OverSelectOption,
    QuorumOption,
    SelectorOption,
    StragglerOption,
    straggler_request,
)
from argosy_server.cli.terminal import say
from argosy_server.cli.watch import watch_run
from argosy_server.local_fleet import LocalDevice, LocalFleet, ends_cleanly

EXAMPLES = examples(
    "argosy up --app examples/har",
    "argosy up --app examples/digits_numpy --codec eden:2 --codec-down int8",
    "argosy up --devices 3 --app examples/digits_numpy --rounds 5",
    "argosy up --keep --state-dir ./fleet",
)


def up(
    *,
    devices: Annotated[int, typer.Option("--devices", "-n", min=1, max=200, help="How many device daemons.")] = 10,
    app: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A Flower app to run; none: only the fleet."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds, instead of the app's own number.")] = None,
    config: ConfigOption = None,
    codec: CodecOption = None,
    codec_down: CodecDownOption = None,
    codec_arrays: CodecArraysOption = None,
    secure: SecureOption = None,
    straggler: StragglerOption = None,
    quorum: QuorumOption = None,
    deadline: DeadlineOption = None,
    over_select: OverSelectOption = None,
    selector: SelectorOption = None,
    asynchronous: AsyncOption = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept.", show_default="a folder that is removed at the end")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up after the run, until Ctrl-C.")] = False,
    site: Annotated[str, typer.Option(help="The site's name.")] = "demo",
) -> None:
    """Start a coordinator and real device daemons on this machine, train, and stop everything again.

    They talk over TLS on loopback, each device with its own certificate. Ctrl-C stops them all.
    """
    codecs, stragglers = None, None
    if app is not None:
        table = AppManifest.read(app).argosy
        codecs = codec_request(table, up=codec, down=codec_down, arrays=codec_arrays or [])
        stragglers = straggler_request(
            table,
            straggler=straggler,
            quorum=quorum,
            deadline=deadline,
            over_select=over_select,
            selector=selector,
            asynchronous=asynchronous,
            secure=secure_request(table, codecs, secure=secure),
        )
    folder = state_dir or Path(tempfile.mkdtemp(prefix="argosy-up-"))
    fleet = LocalFleet(folder, numbered(devices), settings={"site": site})
    try:
        with ends_cleanly(), fleet:
            fleet.start(say)
            say(f"{devices} devices are online. Other commands reach this fleet with --socket {fleet.socket}")
            if app is not None:
                run = fleet.run(
                    app,
                    rounds=rounds,
                    config=parse_config(config or []),
                    codec=codecs,
                    secure=secure,
                    straggler=stragglers,
                )
                with fleet.client() as api:
                    watch_run(api, run, json=False, ends_with_us=True)
            if keep or app is None:
                say("The fleet stays up. Ctrl-C stops it.")
                threading.Event().wait()
    except KeyboardInterrupt:
        say("Stopped.")
    finally:
        if state_dir is None:
            shutil.rmtree(folder, ignore_errors=True)


def numbered(count: int) -> list[LocalDevice]:
    """Return devices device-1, device-2, …, which know their number as Flower's simulation tells it to an app."""
    return [
        LocalDevice(f"device-{number + 1}", {"partition-id": number, "num-partitions": count})
        for number in range(count)
    ]
