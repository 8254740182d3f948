"""The best scalar quantiser of the normal law for 1 to 4 bits (S. P. Lloyd, 1957; J. Max, 1960).

Symmetric about 0, so half of it is tabulated: `LEVELS[b]` are the 2^(b−1) positive levels in units of the standard
deviation, rising; thresholds lie half-way between neighbours. The tables follow from Lloyd's iteration in double
precision and agree with Max's table I; a test computes them anew.
"""

from __future__ import annotations

from itertools import pairwise

LEVELS: dict[int, tuple[float, ...]] = {
    1: (0.7978845608028654,),
    2: (0.4527800346364921, 1.510417608499096),
    3: (0.24509417894422184, 0.7560052812058781, 1.3439092785050006, 2.1519457045369874),
    4: (
        0.1283950298511473,
        0.38804829949029174,
        0.6567591185324646,
        0.9423404564869629,
        1.2562311973471783,
        1.6180463860218823,
        2.069017226531386,
        2.732589570995161,
    ),
}

DISTORTION = {1: 0.3633802276324186, 2: 0.11748184782932902, 3: 0.03454776078850341, 4: 0.009501008008191758}
"""Mean squared error of each, for unit variance."""


def thresholds(bits: int) -> tuple[float, ...]:
    """Return the 2^(bits−1) − 1 positive thresholds in units of the standard deviation, rising; 0 is one as well."""
    levels = LEVELS[bits]
    return tuple((low + high) / 2 for low, high in pairwise(levels))


def eden_nmse(bits: int) -> float:
    """Return the normalised mean squared error of EDEN's unbiased estimate, D/(1−D) (Vargaftik et al., ICML 2022)."""
    return DISTORTION[bits] / (1 - DISTORTION[bits])
