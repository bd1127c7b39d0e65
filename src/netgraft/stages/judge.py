"""What assignments are judged by: their quality on validation crops, and the limits that a student must keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import Tensor

from netgraft.compute import moved
from netgraft.data.images import crops_of
from netgraft.distill import SurrogateKey
from netgraft.foresight import foreseen_losses_db
from netgraft.nets.footprint import Footprint
from netgraft.operators import options_for
from netgraft.prefix import PrefixScores
from netgraft.search import Constraint, check_sums
from netgraft.stages.joint import LATENCY, LOSS, JointStages
from netgraft.stages.space import COUNTS

REFERENCE_LOSSES = 3
"""Quality loss of the hypervolume's reference point, in units of the loss that the user allows."""
CAPPED_LOSSES = 2
"""Losses of more than this many times the reference point's count as just that."""
FORESIGHT_SIDE = 128
"""Side in pixels, at most, of the crops from which losses are foreseen."""


class JudgeStages(JointStages):
    """From the space to what the search aims at, and what it must keep to."""

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor]:
        """The crops that the search judges by."""
        return crops_of(self.config.data, "validation", count=self.config.search.crops, size=self.config.size)

    @cached_property
    def scores(self) -> PrefixScores:
        """What judges assignments; it remembers features over all searches."""
        compute = self.config.compute
        degraded, clean = (crops.to(compute) for crops in self.validation)
        return PrefixScores(
            moved(self.teacher.module, compute),
            [site.path for site in self.sites],
            {key: moved(module, compute) for key, module in self.surrogates.modules.items()},
            degraded=degraded,
            clean=clean,
            calibration=self.calibration.to(compute),
            max_bytes=self.config.search.cache_mib << 20,
        )

    @cached_property
    def teacher_validation_db(self) -> float:
        """The teacher's PSNR on the validation crops."""
        key = {"origin": self.origin, "crops": self.config.search.crops}
        return float(self.store.json("search/teacher", key, lambda: self.scores.psnr_db({})))

    def foresees(self, method: str) -> bool:
        """Whether a search by this method starts from foreseen losses."""
        return method == "auto" and self.config.search.foresight_crops > 0

    @cached_property
    def foreseen_db(self) -> dict[SurrogateKey, float]:
        """The quality loss expected of each replacement in the space alone, by training images only."""
        count, side = self.config.search.foresight_crops, min(*self.config.size, FORESIGHT_SIDE)
        keys = [(path, name) for path, names in self.options.items() for name in names[1:]]

        def foresee() -> list[float]:
            degraded, clean = crops_of(self.config.data, "train", count=count, size=(side, side), seed=self.config.seed)
            surrogates = {key: self.surrogates.modules[key] for key in keys}
            return list(foreseen_losses_db(self.teacher.module, surrogates, degraded, clean).values())

        made_from = {"origin": self.origin, "distill": self.config.distill.model_dump(), "crops": [count, side]}
        losses = self.store.json("search/foreseen", made_from | {"keys": keys}, foresee)
        return dict(zip(keys, losses, strict=True))

    @property
    def reference_db(self) -> float:
        """Quality loss of the hypervolume's reference point."""
        return REFERENCE_LOSSES * self.config.search.max_loss_db

    @property
    def cap_db(self) -> float:
        """Larger quality losses count as just this: a network that diverged, at tens of dB, must not set the scale
        that the model learns on. A loss that exceeds a limit still does so when it is capped."""
        limits = (limit.limit for limit in self.limits if limit.of == LOSS)
        return CAPPED_LOSSES * max(self.reference_db, *limits, 0.0)

    @cached_property
    def limits(self) -> tuple[Constraint, ...]:
        """What the config allows a student at most, as the search takes it."""
        config, found = self.config.search, self._latency_limits()
        if config.min_psnr_db is not None:
            most = self.teacher_validation_db - config.min_psnr_db
            found.append(Constraint(name="min_psnr_db", of=LOSS, limit=most, show=self._psnr_of_loss))
        return (*found, *self._count_limits(self.options))

    def _latency_limits(self) -> list[Constraint]:
        """The limits on the latency, device by device."""
        devices = enumerate(zip(self.benches, self.latency_limits, self.device_latencies, strict=True), start=LATENCY)
        return [
            Constraint(name=name, of=latency if self.by_slowest else index, limit=most)
            for index, (bench, name, latency) in devices
            if (most := self.config.max_latency_ms(bench.name)) is not None
        ]

    @property
    def latency_limits(self) -> tuple[str, ...]:
        """What the limit on the latency is called for each device."""
        return tuple("max_latency_ms" + (f" on {bench.name}" if self.several else "") for bench in self.benches)

    def check_counts(self) -> None:
        """Refuse limits on counts that no choice of operators can meet, before any operator is trained.

        Raises:
            SearchError: which they are, and the nearest that can be met.
        """
        options = {site.path: options_for(site, self.pool) for site in self.open_sites}
        check_sums(list(map(len, options.values())), self._count_limits(options))

    def _count_limits(self, options: Mapping[str, Sequence[str]]) -> list[Constraint]:
        """The limits on counts, given the operators on offer by path of the sites that may change."""
        allowed = {name: getattr(self.config.search, name) for name in COUNTS}
        return [
            Constraint(name=name, of=self._table_of(COUNTS[name], options), limit=most)
            for name, most in allowed.items()
            if most is not None
        ]

    def _psnr_of_loss(self, loss_db: float) -> str:
        """The PSNR on the validation crops, rounded down so that it can be asked for; rounding errors are no loss."""
        return f"{math.floor(1e4 * (self.teacher_validation_db - loss_db) + 1e-4) / 1e4:.10g}"

    def _table_of(self, count: str, options: Mapping[str, Sequence[str]]) -> list[list[int]]:
        """What each of these operators by path adds to a count of the whole network, deployed."""
        shapes = {site.path: site.shape_key for site in self.sites}
        table = [
            [getattr(self.footprints[shapes[path], name], count) for name in names] for path, names in options.items()
        ]
        # What no option changes goes with the first site.
        rest = getattr(self.teacher_footprint, count) - sum(row[0] for row in table)
        return [[rest + taken for taken in table[0]], *table[1:]]

    @cached_property
    def teacher_footprint(self) -> Footprint:
        """What the teacher takes, deployed, at the profiled size."""
        return Footprint.of(self.teacher.module, self.config.size)
