"""One run: what its stages make, what is delivered for each device, and how that holds elsewhere."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

from netgraft.data.conditions import conditions_of
from netgraft.generalization import DEGRADED, NETWORKS, Generalization, condition_psnrs_db, spread_over
from netgraft.stages.delivery import Delivery
from netgraft.stages.forms import Form
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

    @cached_property
    def generalization(self) -> Generalization | None:
        """Teacher and student, as they are delivered for the first device, under conditions that they were not trained
        for; None where that was not asked for."""
        if not self.config.generalization.crops:
            return None
        conditions = conditions_of(self.config.data)
        shown = {"crops": self.config.generalization.crops, "conditions": [(row.kind, row.name) for row in conditions]}
        self.measured  # noqa: B018 - decides in which precision they are delivered
        with self._timed("generalization"):
            stored = {
                name: self.store.json(
                    f"generalization/{name}", self._delivered_key(name) | shown, partial(self._condition_psnrs_db, name)
                )
                for name in NETWORKS
            }
        psnrs_db = {name: row["psnr_db"] for name, row in stored.items()}
        return Generalization.of(conditions, psnrs_db, stored[DEGRADED]["images"], self.config.size)

    def _delivered_key(self, name: str) -> dict[str, Any]:
        """What the degraded images, the teacher or the student, as delivered for the first device, depend on."""
        first = self.measured[0]
        if name == DEGRADED:
            return self.origin
        if isinstance(first.delivered(name), Form):
            return first.form_key(name, first.device)
        return self.network_key(name) if name == "student" else self.origin

    def _condition_psnrs_db(self, name: str) -> dict[str, Any]:
        """What is stored of the degraded images, the teacher or the student."""
        first, conditions = self.measured[0], conditions_of(self.config.data)
        images = spread_over(self.test_images, self.config.generalization.crops)
        score = partial(
            condition_psnrs_db,
            images=images,
            conditions=conditions,
            size=self.config.size,
            seed=self.config.data.seed,
            progress=lambda done: self.progress(f"conditions, {name}", done, len(conditions)),
        )
        if name == DEGRADED:
            psnr_db = score(lambda image: image)
        else:
            with first.restorer(first.delivered(name)) as restorer:
                psnr_db = score(restorer)
        return {"images": [image.name for image in images], "psnr_db": psnr_db}
