"""What the command line does, apart from parsing: inputs, stored results, running."""
