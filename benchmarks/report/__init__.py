"""Tables and plots from result files and nothing else."""
