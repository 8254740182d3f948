"""Training runs: one operating-system process each, supervised by the daemon.

`supervisor` lives in the daemon and imports no Flower; `process`, `grid`, `phases` and `port` live in the run's own
process. The two talk over an `argosy_common.ipc.Channel`; arrays pass through the blob store.
"""
