"""The coordinator's admin API: HTTP on a Unix socket, for the `argosy` command and for scripts."""
