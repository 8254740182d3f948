"""Where a model runs: on this board, on the coordinator, or partly on each; and where on the way it may stop.

`argosy-device plan` (`command.py`) measures (`profile.py`), decides (`decision.py`, pure) and writes the choice down
(`plan.py`). The inference process obeys it when it opens the version (`opening.py`): `stages.py` runs a model cut at
its exits, `offload.py` has the rest run by the coordinator over `line.py`, and falls back to this board at any trouble.
"""
