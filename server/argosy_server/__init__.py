"""The coordinator daemon, its admin API and the `argosy` command line."""
