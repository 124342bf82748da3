"""How long the operators and the network take, how much they keep, and how far from the machine's limits they are.

Run from the root of a checkout: `python -m benchmarks --help`. What is measured, and how, is written in
docs/benchmarks.md.
"""
