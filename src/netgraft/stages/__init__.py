"""The stages of a run over its run folder: each computes its artifact once, and continues where it was stopped.

    folder -> teacher -> surrogates -> devices -> space -> joint -> judge -> search -> student -> scores -> run

Each module adds its artifacts to those of the one before it, as attributes of a class that extends it; ``Run`` has
them all. What a device has for itself are two objects: a ``Bench``, before the search (latency -> transfer -> whole),
and a ``Delivery`` after it (forms -> delivery). A stage pulls in what it needs, so asking for the last one runs all of
them. Nothing is decided here that the library does not decide; this is where it meets configuration, storage and
progress.

``AdaptStages`` are another, shorter row, of what comes after a run: its student, for other images.
"""

from netgraft.stages.adaptation import AdaptStages, Start, start_from
from netgraft.stages.finished import finished_run
from netgraft.stages.folder import Progress, silent
from netgraft.stages.run import Run
from netgraft.stages.space import Refused, Space
from netgraft.stages.surrogates import Surrogates

__all__ = [
    "AdaptStages",
    "Progress",
    "Refused",
    "Run",
    "Space",
    "Start",
    "Surrogates",
    "finished_run",
    "silent",
    "start_from",
]
