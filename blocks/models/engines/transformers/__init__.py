"""Weights on transformers' own classes, in this process."""
