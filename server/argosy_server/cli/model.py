"""`argosy model`: versions of models, and how they come to the boards."""

from __future__ import annotations

import typer

from argosy_server.cli.rollout import add_rollout_verbs

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Roll models out to the boards, and back.")
add_rollout_verbs(app)
