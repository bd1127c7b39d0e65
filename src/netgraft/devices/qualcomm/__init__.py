"""Qualcomm's NPUs: their compiler, and phones of the AI Hub."""
