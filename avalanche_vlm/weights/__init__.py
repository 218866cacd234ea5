"""Weight-space operators as pure functions on state dicts. This package imports torch and nothing else."""
