"""Work on several devices: at the same time where they are separate machines, in turn where they share one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netgraft.devices import HERE
from netgraft.errors import DeviceError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done on a device."""

    device: str
    """Its name, for messages; empty where it goes without saying."""
    place: str
    """The machine that it occupies."""
    do: Callable[[], object]


def do_all(jobs: Sequence[Job]) -> None:
    """Do all jobs: those of a place in turn, other places at the same time.

    The jobs of this machine come first and alone: they are timed by this process's processor time, which work for other
    machines would add to. A job that fails ends the queue of its place; the others are finished before its error is
    raised, the first in the order of the jobs.
    """
    queues: dict[str, list[Job]] = {}
    for job in jobs:
        queues.setdefault(job.place, []).append(job)
    failed: dict[int, BaseException] = {}
    here, elsewhere = queues.pop(HERE, []), list(queues.values())
    if len(elsewhere) < 2:
        for queue in (here, *elsewhere):
            _work_off(queue, failed)
    else:
        _work_off(here, failed)
        # Daemons: whoever interrupts the command does not wait for another machine.
        threads = [threading.Thread(target=_work_off, args=(queue, failed), daemon=True) for queue in elsewhere]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    errors = [failed[id(job)] for job in jobs if id(job) in failed]
    for other in errors[1:]:
        log.error("%s", other)
    if errors:
        raise errors[0]


def _work_off(queue: Sequence[Job], failed: dict[int, BaseException]) -> None:
    """Do the jobs in order, until one fails."""
    for job in queue:
        try:
            job.do()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            if isinstance(error, DeviceError) and job.device:
                error.args = (f"{job.device}: {error}",)
            # Whatever it is, it is raised where all the others are done.
            failed[id(job)] = error
            return
