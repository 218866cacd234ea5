"""Every touch of a private API of our dependencies, each with its reason. ``tests/compat`` holds them."""
