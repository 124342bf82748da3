"""Triton kernels, a folder per operator and beside them what they share; installed as `seqca.kernels`.

A folder offers `forward` and `backward` as the top of `seqca/ops/<name>.py` has them, and is imported when the operator
first runs on the backend `triton`, so that importing `seqca` needs no Triton. A kernel is named
`<operator>_<pass>_<what>`, here as in csrc/.
"""
