"""The one way to Qualcomm AI Hub: its client's calls, with retries, and its exceptions as ours."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from netgraft.devices.alone import ALONE
from netgraft.errors import DeviceError

T = TypeVar("T")

INSTALL = "pip install 'netgraft[aihub]'"
ACCOUNT = "https://workbench.aihub.qualcomm.com/account/"
CONFIGURE = f"get one at {ACCOUNT}, then: qai-hub configure --api_token TOKEN"
WAITS_S = (5.0, 20.0, 60.0)
"""Waits before a call that met a network error is made again; the client itself tries for half a minute."""


class Refusal(Exception):
    """The hub understood and says no; the reason is one line."""


class RateLimited(Exception):
    """The hub wants fewer jobs at a time."""


class HubClient:
    """Calls of a ``qai_hub.Client``, made so that only four things can come of each: an answer, a
    :class:`Refusal`, :class:`RateLimited`, or a DeviceError that the user can do something about.

    client: the client; None makes one from the user's own configuration.

    Raises:
        DeviceError: the package is not installed.
    """

    def __init__(self, client: Any = None, sleep: Callable[[float], None] = time.sleep) -> None:
        self.hub = _import_hub()
        self.client = self.hub.Client() if client is None else client
        self.sleep = sleep

    @property
    def version(self) -> str:
        """Of the package."""
        return str(self.hub.__version__)

    def call(self, make: Callable[[Any], T]) -> T:
        """What ``make`` gives for the client.

        Raises:
            Refusal, RateLimited: see above.
            DeviceError: there is no token, it is not accepted, or the hub cannot be reached.
        """
        for wait_s in (*WAITS_S, None):
            try:
                # It prints its news, in colors, whatever it was told.
                with ALONE, contextlib.redirect_stdout(io.StringIO()):
                    return make(self.client)
            except self.hub.client.RateLimitedError as error:
                raise RateLimited(_told(error)) from error
            except self.hub.UserError as error:
                raise _refused(error) from error
            except (self.hub.Error, self.hub.client.APIException, OSError) as error:
                if wait_s is None:
                    raise DeviceError(
                        f"Qualcomm AI Hub cannot be reached: {_told(error)}; "
                        "what is finished is kept, the same command continues"
                    ) from error
                self.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")


def lacking_token() -> str:
    """What is missing where the user has no token for the hub; empty if there is one, whether accepted or not."""
    hub = _import_hub()
    try:
        _ = hub.Client().config
    except (hub.Error, OSError, ValueError):
        return f"no token for Qualcomm AI Hub: {CONFIGURE}"
    return ""


def _refused(error: Exception) -> Exception:
    """A UserError of the client: about the token, or about what was asked."""
    told = str(error)
    if told.startswith("Failed to authenticate"):
        return DeviceError(f"Qualcomm AI Hub does not accept the token, which may have expired: {CONFIGURE}")
    if told.startswith(("Failed to load", "Please provide client configuration")):
        return DeviceError(f"no token for Qualcomm AI Hub: {CONFIGURE}")
    return Refusal(_told(error))


def _told(error: Exception) -> str:
    """The message in one line, without the box that the client draws around it."""
    words = " ".join(str(error).translate(str.maketrans("┌─┐└┘|", "      ")).split())
    return words or type(error).__name__


def _import_hub() -> ModuleType:
    try:
        import qai_hub
    except ImportError as error:
        raise DeviceError(f"qai_hub is missing ({error}): {INSTALL}") from error
    return qai_hub
