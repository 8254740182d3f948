"""New versions of this board's own packages.

`orders` takes the coordinator's word, in the daemon. `program` installs, as root, and goes back where the new version
does no good. They share nothing but files (`steps`).
"""
