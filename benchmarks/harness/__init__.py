"""Measures cases: checks them, counts, times, compares, and keeps the results. Knows no operator by name."""
