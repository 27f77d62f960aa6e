"""How fast kernels are, beside others and beside what the card can do: ``python -m benchmarks``."""
