"""Networks as ExecuTorch programs, and its runtime, which runs them."""
