"""The app of benchmarks/round_overhead; the same directory runs on Argosy and on Flower's own transport."""
