"""`python -m har_serial --port /dev/ttyUSB0 --broker mqtt://localhost`: see README.md."""

from __future__ import annotations

import json
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import serial
import typer
from numpy.typing import NDArray

from argosy_client.inference import Client
from argosy_common.backoff import Backoff
from argosy_common.errors import ArgosyError, DeadlinePassed, ModelBusy
from har_serial.publisher import Publisher
from har_serial.samples import LineReader
from har_serial.windows import RATE_HZ, STEP, Windows

Take = Callable[[NDArray[np.float32]], None]
"""Gets each full window."""

SOCKET = Path("/var/lib/argosy-device/inference.sock")
DEADLINE_MS = 1000.0 * STEP / RATE_HZ
"""When the next window is full, this one's answer is of no use any more."""
READ_S = 0.2
TELL_BAD_EVERY = 500


def main(
    *,
    port: Annotated[str, typer.Option(help="The sensor's serial device.")] = "/dev/ttyUSB0",
    baud: Annotated[int, typer.Option(min=1200, help="Its speed.")] = 115_200,
    model: Annotated[str, typer.Option(help="The model's name on this board.")] = "har",
    inference: Annotated[Path, typer.Option(help="Where the board serves models.")] = SOCKET,
    broker: Annotated[str | None, typer.Option(help="mqtt://HOST[:PORT] or mqtts://…; absent: only print.")] = None,
    ca: Annotated[Path | None, typer.Option(exists=True, help="Whom mqtts:// trusts; absent: the system's.")] = None,
    topic: Annotated[str, typer.Option(help="Where the activity is published.")] = f"activity/{socket.gethostname()}",
) -> None:
    """Tell what the wearer of a sensor does: one line of JSON a window, and a retained MQTT message."""
    try:
        publisher = Publisher(broker, topic, ca=ca) if broker else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--broker") from None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with Client(inference) as models:
            listen(port, baud, lambda window: answer(models, model, window, publisher))
    except KeyboardInterrupt:
        sys.exit(0)
    finally:
        if publisher is not None:
            publisher.close()


def listen(port: str, baud: int, take: Take) -> None:
    """Read the sensor for ever, and hand each full window to `take`; a cable that is out is waited for."""
    reader, windows = LineReader(), Windows()
    backoff = Backoff(random.Random(), base=0.5, cap=10.0)
    while True:
        try:
            with serial.Serial(port, baud, timeout=READ_S) as line:
                tell(f"listening to {port}")
                reader.reset()
                read(line, reader, windows, take)
        except (serial.SerialException, OSError) as error:
            pause = backoff.next() if reader.good == 0 else backoff.base
            tell(f"{port}: {error}; again in {pause:.1f} s")
            reader.good = 0
            time.sleep(pause)


def read(line: serial.Serial, reader: LineReader, windows: Windows, take: Take) -> None:
    """Read until the port fails, which raises."""
    told = reader.bad
    while True:
        for sample in reader.feed(line.read(max(1, line.in_waiting))):
            window = windows.add(sample, time.monotonic())
            if window is not None:
                take(window)
        if reader.bad >= told + TELL_BAD_EVERY:
            told = reader.bad
            tell(f"{reader.bad} lines made no sense, {reader.good} did: is the speed right?")


def answer(models: Client, model: str, window: NDArray[np.float32], publisher: Publisher | None) -> None:
    """Ask the model, and tell what it says. One that is late, busy or gone costs this window and no more."""
    try:
        activity, confidence = models.classify(model, window, deadline_ms=DEADLINE_MS)
    except (ModelBusy, DeadlinePassed) as error:
        tell(error.message)
        return
    except ArgosyError as error:
        tell(f"{error.message} {error.remedy_text}")
        return
    print(json.dumps({"activity": activity, "confidence": round(confidence, 3)}), flush=True)
    if publisher is not None:
        publisher.publish(activity, confidence)


def tell(text: str) -> None:
    """Say something that is no result."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
