"""`argosy-device check`: is this board fit to take part, and if not, what is to be done.

    readings.py   touches the board and the network (network.py, access.py), bounded in time: one `Readings`
    board.py, state.py, dates.py, coordinator.py   judge the readings: pure functions, each problem a declared value
    checks.py     the list of the checks
    report.py     what a person, a program and a shell get of it

Add a check: a reading, a function over the readings, its problems, a line in `CHECKS`, and a row for each problem in
docs/operating.md.
"""
