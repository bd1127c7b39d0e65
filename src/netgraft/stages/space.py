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
from netgraft.stages.devices import DeviceStages
from netgraft.stages.whole import Bench

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


class SpaceStages(DeviceStages):
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
        """The options of a site that every device runs, and that no other beats in feature error, in the latency of the
        whole network that has it at this site alone, on every device, and in whatever else is limited."""
        errors, names = self.surrogates.errors, options_for(site, self.pool)
        networks = [{site.path: name} for name in names]
        cost = np.stack([bench.latency_model.predict_ms(networks) for bench in self.profiled], axis=1)
        whole_ms = dict(zip(names, cost, strict=True))
        error = {name: 0.0 if name == KEEP else errors[site.path, name] for name in names}
        taken = {name: self._limited(site, name) for name in names}

        def beats(one: str, other: str) -> bool:
            no_larger = all(a <= b for a, b in zip(taken[one], taken[other], strict=True))
            return no_larger and error[one] <= error[other] and bool((whole_ms[one] < whole_ms[other]).all())

        kept, refused = [KEEP], []
        for name in names[1:]:
            reason = self._refused(site, name)
            better = [rival for rival in names if beats(rival, name)]
            if reason is None and better:
                pairs = zip(whole_ms[better[0]], whole_ms[name], strict=True)
                against = (f"{a:.3f} against {b:.3f} ms" for a, b in pairs)
                reason = f"{better[0]} is closer and faster ({' and '.join(against)}, whole)"
            if reason is None:
                kept.append(name)
            else:
                refused.append(Refused(site=site.path, operator=name, reason=reason))
        return tuple(kept), refused

    def _refused(self, site: Site, operator: str) -> str | None:
        """Why not every device runs an operator at a site, in one line; None if all do."""
        reasons = [
            bench.told(entry.reason)
            for bench in self.profiled
            if isinstance(entry := bench.latency_table.entry(site.path, operator), Unsupported)
        ]
        return "; ".join(reasons) or None

    @cached_property
    def lost(self) -> dict[str, dict[str, int]]:
        """At how many sites each operator left the space for a device alone, by device and operator; other devices run
        it there."""
        found: dict[str, dict[str, int]] = {}
        for site in self.open_sites:
            for name in options_for(site, self.pool):
                refusing = [bench.name for bench in self.profiled if name not in bench.runnable[site.path]]
                for device in refusing if len(refusing) < len(self.profiled) else ():
                    sites = found.setdefault(device, {})
                    sites[name] = sites.get(name, 0) + 1
        return found

    def _limited(self, site: Site, operator: str) -> list[int]:
        """Those counts of an operator at a site that the config limits."""
        taken = self.footprints[site.shape_key, operator]
        limited = (count for name, count in COUNTS.items() if getattr(self.config.search, name) is not None)
        return [getattr(taken, count) for count in limited]

    @cached_property
    def ceiling(self) -> Ceiling:
        """What no search can beat on the first device, known before it starts."""
        return self.ceiling_on(self.profiled[0])

    def ceiling_on(self, bench: Bench) -> Ceiling:
        """What no search can beat on a device."""
        predict, macs, fastest = bench.latency_model.predict_ms, 0, {}
        for site, names in zip(self.space.sites, self.space.options, strict=True):
            fastest[site.path] = names[int(np.argmin(predict([{site.path: name} for name in names])))]
            macs += site.macs - min(self.footprints[site.shape_key, name].macs for name in names)
        teacher_ms, fastest_ms = predict([{}, fastest]).tolist()
        macs_share = macs / self.teacher.macs(*self.config.size)
        return Ceiling(macs=macs_share, latency=1 - fastest_ms / teacher_ms, fastest_ms=fastest_ms)

    def name_row(self, row: list[int]) -> dict[str, str]:
        """Operator by site path of a row of the search."""
        return named_assignment(row, self.space.sites, self.space.options)
