"""Enrolment stations: reserved for serial, first-boot and batch enrolment; empty until they are built."""
