"""Data sets that publications use, in the layouts in which they are handed out: a declaration each."""
