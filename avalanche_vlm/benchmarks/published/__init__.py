"""Results that papers report on published benchmarks: a JSON file for each paper, with the protocol of every table."""
