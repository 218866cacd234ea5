"""Published benchmarks: a small declaration each, read from files that users hold already."""
