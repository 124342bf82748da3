"""The baseline of the network's cases: the network as it was published, operator by operator, nothing merged.

Kim, Choi, Min, "Sequential Cross Attention Based Multi-task Learning", ICIP 2022, arXiv 2209.02518. Every pair of tasks
has its own five projections, every head concatenates what it upsampled, every loss sees full-size predictions. It is
written in torch alone and stays as it is while the package's own reference merges what algebra allows to merge. Modules
are called what the published checkpoints call them, so that a state dict in the published format fits as it is.
"""
