"""Faults while clients write, in every phase, from a seed (README.md)."""
