"""What verifies operators: evaluation on samples, the tolerance rule, `selftest`."""
