"""What is to be done on a GPU, in stages that each take minutes: `python -m benchmarks.gpu`, docs/gpu.md."""
