"""The app of benchmarks/compressed_run that measures memory."""
