"""Enrolment stations: they put boards into a fleet, by cable or by card, and see no private key of any."""
