"""What ``benchmarks/peers.py`` compares, and how each network comes about."""
