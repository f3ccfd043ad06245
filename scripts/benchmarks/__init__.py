"""How fast and how faithful: every figure of docs/benchmarks, as `python -m benchmarks`."""
