"""What one thread at a time may do: converters catch what the whole process prints and warns of."""

from __future__ import annotations

import threading

ALONE = threading.RLock()
"""Held while output, warnings or loggers are caught, which all threads share: two that restored them in another order
than they caught them would lose them. PyTorch's exporter has such state of its own."""
