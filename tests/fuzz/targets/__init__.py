"""Targets, a module each; :mod:`example` says what is in one."""
