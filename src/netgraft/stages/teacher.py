"""The teacher, its sites, how much each matters, and which of them may change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netgraft.data.images import crops_of, fingerprint
from netgraft.errors import ConfigError
from netgraft.nets.designs import structure
from netgraft.nets.footprint import Footprint
from netgraft.nets.load import Teacher
from netgraft.operators import Operator, operator_pool, options_for, with_int8
from netgraft.saliency import Protection, protect, saliency
from netgraft.sites import KEEP, Site, find_sites, paper_sites, select_sites
from netgraft.stages.folder import RunFolder


class TeacherStages(RunFolder):
    """From the checkpoint to the sites that may change."""

    @cached_property
    def teacher(self) -> Teacher:
        """The pretrained network."""
        teacher = self.config.teacher.load()
        if any(side % teacher.size_multiple for side in self.config.size):
            raise ConfigError(f"size {list(self.config.size)}: this network needs multiples of {teacher.size_multiple}")
        return teacher

    @cached_property
    def origin(self) -> dict[str, Any]:
        """What everything in this run depends on: the teacher's weights, the images and the seed."""
        weights = hashlib.sha256()
        for name, tensor in self.teacher.module.state_dict().items():
            weights.update(name.encode() + tensor.contiguous().numpy().tobytes())
        config = self.config
        return {
            "teacher": weights.hexdigest(),
            "tlc": config.teacher.tlc,
            "data": fingerprint(config.data),
            "seed": config.seed,
            "size": config.size,
        } | ({"factory": config.teacher.factory} if config.teacher.factory else {})

    @cached_property
    def design_key(self) -> dict[str, Any]:
        """What the latencies of the teacher's blocks depend on; not on its weights."""
        key = self.teacher.design.as_dict()
        return key if self.teacher.design.shape else key | {"structure": structure(self.teacher.module)}

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every site of the teacher; those that the config names among them."""
        chosen = self.config.space.sites
        named = () if isinstance(chosen, str) else chosen
        return find_sites(self.teacher.module, self.config.size, named=named)

    @cached_property
    def learned(self) -> Mapping[str, Operator]:
        """The operators that are trained or fitted."""
        return operator_pool(self.config.space.operators)

    @cached_property
    def pool(self) -> Mapping[str, Operator]:
        """The operators on offer; where a device mixes precisions, in each of them."""
        return with_int8(self.learned) if self.config.device.mixed else self.learned

    @cached_property
    def footprints(self) -> dict[tuple[str, str], Footprint]:
        """What each operator takes at each shape of site, by both; sites of one shape take the same."""
        found = {}
        for site in {site.shape_key: site for site in self.sites}.values():
            block = self.teacher.module.get_submodule(site.path)
            h, w = (side // site.stride for side in self.config.size)
            for name in options_for(site, self.pool):
                module = block if name == KEEP else self.pool[name].module_at(site, block)
                found[site.shape_key, name] = Footprint.of(site.alone(module), (h, w), site.joint_channels)
        return found

    @cached_property
    def candidates(self) -> tuple[Site, ...]:
        """The sites that the config names; the protected ones are still among them."""
        chosen = self.config.space.sites
        if chosen == "all":
            return self.sites
        return paper_sites(self.sites) if chosen == "paper" else select_sites(self.sites, chosen)

    @cached_property
    def without_alternative(self) -> tuple[str, ...]:
        """Paths of the candidates where the pool offers nothing but the teacher's block."""
        return tuple(site.path for site in self.candidates if options_for(site, self.pool) == (KEEP,))

    @cached_property
    def saliency(self) -> dict[str, NDArray[np.float64]]:
        """Each metric's value for every site."""
        config = self.config.saliency
        wanted = dict.fromkeys((*config.metrics, self.config.space.protect_by))
        with self._timed("saliency"):
            size = (config.crop, config.crop)
            degraded, clean = crops_of(self.config.data, "train", count=config.crops, size=size, seed=self.config.seed)
            scores = {}
            for number, metric in enumerate(wanted):
                self.progress("saliency", number, len(wanted))
                key = {"origin": self.origin, "crops": config.crops, "crop": config.crop, "metric": metric}
                make = partial(self._saliency, metric, degraded, clean)
                scores[metric] = np.array(self.store.json(f"saliency/{metric}", key, make))
        return scores

    def _saliency(self, metric: str, degraded: Tensor, clean: Tensor) -> list[float]:
        scores = saliency(self.teacher.module, degraded, clean, self.sites, metric=metric)
        return [float(score) for score in scores]

    @cached_property
    def protection(self) -> Protection:
        """The sites that keep the teacher's block by decision, and why; those without an alternative keep it anyway,
        so that they are not ranked."""
        config = self.config.space
        ranked = [site for site in self.candidates if site.path not in self.without_alternative]
        positions = [self.sites.index(site) for site in ranked]
        return protect(
            ranked,
            self.saliency[config.protect_by][positions],
            metric=config.protect_by,
            top=min(config.protect_top, len(ranked)),
            named=[path for path in config.protect if path not in self.without_alternative],
        )

    @cached_property
    def open_sites(self) -> tuple[Site, ...]:
        """The sites that may change."""
        kept = {*self.protection.paths, *self.without_alternative}
        found = tuple(site for site in self.candidates if site.path not in kept)
        if not found:
            raise ConfigError(
                f"all {len(self.candidates)} sites are protected or fit no operator, so that nothing may "
                "change: name more in space.sites or space.operators, or lower space.protect_top"
            )
        return found
