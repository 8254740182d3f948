"""Models on the device: fetched, verified, put in force, and put out of it again (docs/rollouts.md). No numpy here."""
