"""The benchmarks: speed, memory and fidelity, for the figures of docs/benchmarks."""
