"""One script a claim: `python -m benchmarks.NAME [--json] [--quick]`. The common form is in `benchmarks.report`."""
