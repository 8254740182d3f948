"""Coding inside one site: boards that hold the same data stand in for one another. Pure numpy, no clock, no sockets.

- `repetition.py`: the fractional-repetition code: which board holds which shard, and the decoded sum
- `gain.py`: what that, and not waiting for all, would gain, from measured times
"""
