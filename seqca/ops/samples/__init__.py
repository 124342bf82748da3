"""Samplers of every operator, one module per operator."""
