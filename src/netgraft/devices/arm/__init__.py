"""Arm's NPUs, by their compiler's estimate."""
