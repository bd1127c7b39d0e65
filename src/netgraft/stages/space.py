"""The options that are worth searching, and the most that any choice of them can save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from netgraft.assemble import named_assignment
from netgraft.devices import Unsupported
from netgraft.operators import options_for
from netgraft.sites import KEEP, Site
from netgraft.stages.whole import WholeStages

COUNTS: Mapping[str, str] = MappingProxyType(
    {"max_macs": "macs", "max_params": "params", "max_size_bytes": "size_bytes"}
)
"""The count of a footprint that each of these settings limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An option that left the space before the search."""

    site: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What the search chooses from."""

    sites: tuple[Site, ...]
    """Sites that take part, in data-flow order."""
    options: tuple[tuple[str, ...], ...]
    """Operators on offer at each, ``keep`` first."""
    refused: tuple[Refused, ...]
    """Options that were left out, with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """The most that any assignment of a space can save, as shares of the teacher, 0 to 1."""

    macs: float
    """Multiply-accumulates, with the fewest at every site."""
    latency: float
    """Predicted latency, with the fastest at every site."""
    fastest_ms: float
    """That latency."""


class SpaceStages(WholeStages):
    """From surrogates and latencies to the space."""

    @cached_property
    def space(self) -> Space:
        """Sites and options that are worth searching."""
        options, refused = [], []
        for site in self.open_sites:
            kept, left_out = self._worthwhile(site)
            options.append(kept)
            refused += left_out
        return Space(sites=self.open_sites, options=tuple(options), refused=tuple(refused))

    def _worthwhile(self, site: Site) -> tuple[tuple[str, ...], list[Refused]]:
        """The options of a site that no other beats in feature error, in the latency of the whole network that has it
        at this site alone, and in whatever else is limited."""
        table, errors = self.latency_table, self.surrogates.errors
        names = options_for(site, self.pool)
        whole_ms = self.latency_model.predict_ms([{site.path: name} for name in names])
        cost = dict(zip(names, whole_ms.tolist(), strict=True))
        error = {name: 0.0 if name == KEEP else errors[site.path, name] for name in names}
        taken = {name: self._limited(site, name) for name in names}

        def beats(one: str, other: str) -> bool:
            no_larger = all(a <= b for a, b in zip(taken[one], taken[other], strict=True))
            return no_larger and error[one] <= error[other] and cost[one] < cost[other]

        kept, refused = [KEEP], []
        for name in names[1:]:
            entry = table.entry(site.path, name)
            if isinstance(entry, Unsupported):
                refused.append(Refused(site=site.path, operator=name, reason=entry.reason))
                continue
            better = [rival for rival in names if beats(rival, name)]
            if better:
                reason = f"{better[0]} is closer and faster ({cost[better[0]]:.3f} against {cost[name]:.3f} ms, whole)"
                refused.append(Refused(site=site.path, operator=name, reason=reason))
            else:
                kept.append(name)
        return tuple(kept), refused

    def _limited(self, site: Site, operator: str) -> list[int]:
        """Those counts of an operator at a site that the config limits."""
        taken = self.footprints[site.shape_key, operator]
        limited = (count for name, count in COUNTS.items() if getattr(self.config.search, name) is not None)
        return [getattr(taken, count) for count in limited]

    @cached_property
    def ceiling(self) -> Ceiling:
        """What no search can beat, known before it starts."""
        predict, macs, fastest = self.latency_model.predict_ms, 0, {}
        for site, names in zip(self.space.sites, self.space.options, strict=True):
            fastest[site.path] = names[int(np.argmin(predict([{site.path: name} for name in names])))]
            macs += site.macs - min(self.footprints[site.shape_key, name].macs for name in names)
        teacher_ms, fastest_ms = predict([{}, fastest]).tolist()
        macs_share = macs / self.teacher.macs(*self.config.size)
        return Ceiling(macs=macs_share, latency=1 - fastest_ms / teacher_ms, fastest_ms=fastest_ms)

    def name_row(self, row: list[int]) -> dict[str, str]:
        """Operator by site path of a row of the search."""
        return named_assignment(row, self.space.sites, self.space.options)
