"""Vision-language models in the Avalanche continual-learning ecosystem.

Importing this package is light: torch and avalanche load when a subpackage that needs them does.
"""

__version__ = "0.1.0"
