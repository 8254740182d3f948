"""The app of benchmarks/straggler and of the system tests on slow boards; numpy alone, milliseconds a training."""
