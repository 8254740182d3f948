"""Imported before numpy: BLAS works in one thread, since it reads its number of threads when it is loaded."""

from __future__ import annotations

import os
import sys

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

if "numpy" not in sys.modules:
    os.environ.update(dict.fromkeys(THREADS, "1"))


def held() -> bool:
    """Tell whether BLAS was told in time."""
    return all(os.environ.get(name) == "1" for name in THREADS)
