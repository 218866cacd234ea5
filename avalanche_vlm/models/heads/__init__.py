"""What answers: the texts of the classes, and heads in their place."""
