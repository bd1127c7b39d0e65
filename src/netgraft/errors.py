"""What can go wrong, as a user sees it.

    NetgraftError                 base: one line that says what, where and what to do next
    ├── ConfigError               a config file, preset, name or option is wrong
    ├── CheckpointError           weights that cannot be read or do not fit a known network
    ├── ImageError                an image that cannot be read, written or handled
    ├── DatasetError              a folder of images that cannot serve as a dataset
    ├── DeviceError               a device that is missing, fails or gives nonsense
    │   └── DeviceLost            one that does not answer any more: nothing follows for the network
    ├── ExportError               a network that cannot be exported, or whose export disagrees
    ├── SearchError               an objective or option table that cannot be searched
    └── StoreError                a run folder that cannot be read or written

The command line turns each of these into one line on stderr and exit code 2. Anything else that escapes is a
bug of ours and leaves with exit code 1.
"""


class NetgraftError(Exception):
    """Base of every error that the user can do something about."""


class ConfigError(NetgraftError):
    """A config file, preset, name or option is wrong."""


class CheckpointError(NetgraftError):
    """Weights that cannot be read or do not fit a known network."""


class ImageError(NetgraftError):
    """An image that cannot be read, written or handled."""


class DatasetError(NetgraftError):
    """A folder of images that cannot serve as a dataset."""


class DeviceError(NetgraftError):
    """A device that is missing, fails or gives nonsense."""


class DeviceLost(DeviceError):
    """A device that does not answer any more, which tells nothing about the network that it was to run."""


class ExportError(NetgraftError):
    """A network that cannot be exported, or whose export disagrees with it."""


class SearchError(NetgraftError):
    """An objective or option table that cannot be searched."""


class StoreError(NetgraftError):
    """A run folder that cannot be read or written."""


def first_line(error: Exception) -> str:
    """The first line of a runtime's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
