"""What the declarations of published benchmarks have in common, family by family."""
