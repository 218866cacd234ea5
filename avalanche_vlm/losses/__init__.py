"""Losses as pure functions on tensors. This package imports torch and nothing else."""
