"""Faults that benchmarks/faults.py makes: kills, damaged files, odd command lines."""
