"""An app of the system tests."""
