"""Real handwritten digits in place of made ones: `python fetch_digits.py digits.npz`.

The UCI digits (dataset 80, CC BY 4.0) lie as a table inside the scikit-learn package: from the installed one, else
from its wheel, which pip fetches and which is only read, neither installed nor imported.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

TABLE = "sklearn/datasets/data/digits.csv.gz"
TABLE_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
DOWNLOAD_LIMIT_S = 600


def table() -> bytes:
    """The packed table. Exits with what to do where it cannot be had."""
    try:
        path = Path(str(distribution("scikit-learn").locate_file(TABLE)))
        if path.is_file():
            return path.read_bytes()
    except PackageNotFoundError:
        pass
    with TemporaryDirectory() as folder:
        options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--no-input", "--dest", folder]
        command = [sys.executable, "-m", "pip", "download", *options, "scikit-learn"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT_S, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            sys.exit(
                f"pip could not fetch scikit-learn; check the network, or leave `data` empty.\n{done.stderr[-500:]}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            return wheel.read(TABLE)


def main() -> None:
    """The command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python fetch_digits.py FILE")
    packed = table()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != TABLE_SHA256:
        sys.exit(f"the table has SHA-256 {digest}, not {TABLE_SHA256}: another set of digits than this app knows")
    rows = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",")
    np.savez(sys.argv[1], images=(rows[:, :64] / 16).astype(np.float32), labels=rows[:, 64].astype(np.int64))
    print(f"{len(rows)} digits in {sys.argv[1]}")


if __name__ == "__main__":
    main()
