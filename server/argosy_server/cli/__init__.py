"""The command line: `argosy` for the operator, `argosy-coordinator` for the daemon.

Data goes to stdout, everything said about it to stderr. Nothing here imports FastAPI, SQLAlchemy or Flower: a command
must answer at once, and shell completion with it.
"""
