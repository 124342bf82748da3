"""Triton kernels, one module per operator, installed as `seqca.kernels`.

A module offers `forward` and `backward` with the contract of its operator (docs/operators.md) and is imported
when its operator first runs on the backend `triton`, so that importing `seqca` needs no Triton.
"""
