"""Advice: short pilots on the user's own stream, a recommendation within constraints, and a plan in stages."""
