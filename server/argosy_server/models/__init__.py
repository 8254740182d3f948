"""Models on the coordinator: from a signed version to the boards that run it (docs/rollouts.md)."""
