"""One run: what its stages make, and what is delivered for each device."""

from __future__ import annotations

from functools import cached_property

from netgraft.stages.delivery import Delivery
from netgraft.stages.scores import ScoreStages


class Run(ScoreStages):
    """One run: a config, a folder, and every stage's artifact as an attribute."""

    @cached_property
    def deliveries(self) -> tuple[Delivery, ...]:
        """Teacher and student on each device."""
        return tuple(Delivery(self, bench) for bench in self.benches)

    @property
    def delivery(self) -> Delivery:
        """Teacher and student on the first device."""
        return self.deliveries[0]

    @cached_property
    def measured(self) -> tuple[Delivery, ...]:
        """The same, when teacher and student were measured on all of them."""
        for delivery in self.deliveries:
            # What threads would otherwise make at the same time.
            delivery.forms, delivery.shown  # noqa: B018
        with self._timed("measure"):
            self.on_devices(lambda bench: self.deliveries[self.benches.index(bench)].final_session)
        return self.deliveries
