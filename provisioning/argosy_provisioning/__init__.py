"""Enrolment stations: what puts boards into a fleet without anybody typing on them."""
