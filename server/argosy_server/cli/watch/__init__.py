"""Following a run: `progress` folds its events into a state, `follow` fetches them, `view` and `plain` show them."""

from argosy_server.cli.watch.session import watch_run

__all__ = ["watch_run"]
