"""Whom a round asks, and whom it waits for. Pure: times and randomness are handed in; no Flower, sockets or files.

- `conditions.py`: what devices say of their battery, heat and connection
- `selection.py`: the form of selectors, and the two that there are; `selectors.py`: they by name, also from outside
- `track.py`: how long each device took lately, and which are still at work on a round that is over
- `cutoff.py`: when a phase of a round is over
"""
