"""Play a recording as a sensor would send it: `python play.py RECORDING.npz [--port /dev/ttyUSB1]`.

Without a port it makes a pseudo-terminal and prints its name, for `python -m har_serial --port NAME`. RECORDING is one
of the files that `examples/har/prepare.py` writes: windows of 128 samples that overlap by half.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 50.0


def lines(signals: NDArray[np.float32]) -> Iterator[bytes]:
    """Return the samples of windows (n, 6, 128), each one once as far as they overlap, as the sensor's lines."""
    for window in signals:
        for sample in window[:, : window.shape[1] // 2].T:
            yield (",".join(f"{value:.5f}" for value in sample) + "\n").encode()


def main() -> None:
    """Play, over and over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--port", help="a serial device; absent: a pseudo-terminal is made")
    parser.add_argument("--rate", type=float, default=RATE_HZ, help="samples a second")
    given = parser.parse_args()
    with np.load(given.recording, allow_pickle=False) as file:
        signals = file["signals"].astype(np.float32)
    if given.port:
        out = os.open(given.port, os.O_WRONLY | os.O_NOCTTY)
    else:
        out, end = os.openpty()
        tty.setraw(end)
        print(os.ttyname(end), flush=True)
    next_at = time.monotonic()
    try:
        while True:
            for line in lines(signals):
                os.write(out, line)
                next_at += 1.0 / given.rate
                time.sleep(max(0.0, next_at - time.monotonic()))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
