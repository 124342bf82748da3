"""Prediction on one's own pictures."""
