"""What runs experiments: one of them, a diagnosis, attribution, advice."""
