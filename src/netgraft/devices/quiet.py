"""Runtimes and converters keep their news to themselves."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


@contextmanager
def quiet() -> Iterator[None]:
    """While open, converter and quantizer keep their news, and the warnings of what they import, to themselves."""
    printed = io.StringIO()
    disabled, level = logging.root.manager.disable, os.environ.get(LOG_LEVEL)
    handlers = logging.root.handlers[:]
    logging.disable(logging.ERROR)
    # Their parts in C++ read this when they are loaded: 2 leaves the errors.
    os.environ[LOG_LEVEL] = "2"
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        # One that they brought along writes to where nobody looks, and takes everybody's warnings there.
        logging.root.handlers[:] = handlers
        if level is None:
            del os.environ[LOG_LEVEL]
        else:
            os.environ[LOG_LEVEL] = level


@contextmanager
def silent() -> Iterator[None]:
    """The same for libraries in C++ that write to the process's own standard error, past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with quiet():
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
