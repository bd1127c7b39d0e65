"""Scoring many students of one teacher, computing only what no earlier one of them has computed.

Students that agree at the first sites have the same features there. So the network runs with slots at its sites:
those of the longest known prefix of operators hand out what was computed before, and only what follows is computed.
Calibration is part of it: a frozen norm depends on nothing but the operators up to its site.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.assemble import Assignment
from netgraft.cache import GreedyDualCache
from netgraft.distill import SurrogateKey
from netgraft.errors import ConfigError
from netgraft.evaluate import crop_psnrs_db
from netgraft.nets.blocks import calibrating, deploy
from netgraft.nets.quantized import FOLLOWING
from netgraft.sites import KEEP

CACHE_BYTES = 1 << 30
"""Of features and blocks that are kept, unless said otherwise."""
REACH = 4
"""Sites behind the known prefix whose features are kept, too: the next student to share more seldom shares all."""
PROBE = 64
"""Side, in pixels, of the crop that shows how the data flow."""
CALIBRATION = 0
"""Number of the pass that calibrates; validation crop n is pass n + 1."""

Prefix = tuple[int | str, ...]
"""The padding of the input, and the operators of the first sites."""


@dataclass(frozen=True, slots=True)
class _Student:
    """One assignment on its way through the network."""

    prefixes: tuple[Prefix, ...]
    """What each site's output depends on, the site itself included."""
    blocks: dict[int, nn.Module]
    """Deployed block by number of the site; those that are still to be calibrated are missing."""


class _Slot(nn.Module):
    """Stands at a site, and does there what the pass in progress wants."""

    size_multiple = 1
    """Of the block in whose place it stands."""
    act: Callable[..., Tensor]

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.act(*inputs)


class _Enough(Exception):
    """Ends a pass that has computed what it was for."""


class PrefixScores:
    """The PSNR of any student of one teacher, as that of the deployed ``assemble(...)``, with shared work done once.

    Args:
        module: the teacher; left untouched.
        paths: its sites in the order of the data. Those that never change belong here, too: what stands at no
            site is computed anew each time.
        surrogates: what may stand at the sites; must not change from now on, nor change its inputs in place.
        degraded, clean: (n, 3, h, w) validation crops in [0, 1].
        calibration: (b, 3, h, w) images that frozen norms are calibrated on.
        max_bytes: kept between students, at most; one crop's activations come on top.
        reach: sites behind the known prefix whose features a pass adds to it.

    Raises:
        ConfigError: a forward pass does not meet every site once, in the order of ``paths``.
    """

    def __init__(
        self,
        module: nn.Module,
        paths: Sequence[str],
        surrogates: Mapping[SurrogateKey, nn.Module],
        *,
        degraded: Tensor,
        clean: Tensor,
        calibration: Tensor,
        max_bytes: int = CACHE_BYTES,
        reach: int = REACH,
    ) -> None:
        self.cache = GreedyDualCache(max_bytes)
        self._reach = reach
        self._module = module
        self._paths = tuple(paths)
        self._surrogates = surrogates
        # One crop at a time, so that a student that diverges does so on the first.
        passes = (calibration, *torch.split(degraded, 1))
        self._passes = [x.contiguous(memory_format=torch.channels_last) for x in passes]
        self._clean = torch.split(clean, 1)
        self._net = deploy(module)
        self._deployed = {(path, KEEP): self._net.get_submodule(path) for path in self._paths}
        self._slots = [_Slot() for _ in self._paths]
        for path, slot in zip(self._paths, self._slots, strict=True):
            self._net.set_submodule(path, slot)
        self._last_use = self._flow(calibration[:1, :, :PROBE, :PROBE])
        self._shapes: dict[tuple[int, int | str, int], torch.Size] = {}

    def psnr_db(self, assignment: Assignment) -> float:
        """Mean over the validation crops, each rounded to 8 bits; 0 if the student diverges."""
        scores = self.crop_psnrs_db(assignment)
        return 0.0 if scores is None else float(np.mean(scores))

    @torch.no_grad()
    def crop_psnrs_db(self, assignment: Assignment) -> list[float] | None:
        """PSNR of every validation crop; None if the student diverges."""
        student = self._calibrated(assignment)
        raw = (self._run(student, number) for number in range(CALIBRATION + 1, len(self._passes)))
        return crop_psnrs_db(raw, self._clean)

    def _calibrated(self, assignment: Assignment) -> _Student:
        """The student, with a block for every site."""
        keys = [(path, assignment.get(path, KEEP)) for path in self._paths]
        for slot, key in zip(self._slots, keys, strict=True):
            slot.size_multiple = getattr(self._source(key), "size_multiple", 1)
        # How a network pads its input may depend on the blocks, and then all features do.
        padding = int(getattr(self._net, "size_multiple", 1))
        names = [name for _, name in keys]
        student = _Student(tuple((padding, *names[: site + 1]) for site in range(len(keys))), {})
        missing = []
        for site, key in enumerate(keys):
            block = self.cache.get(student.prefixes[site]) if self._is_static(key) else self._block(key)
            if block is None:
                missing.append(site)
            else:
                student.blocks[site] = block
        if missing:
            sources = {site: self._source(keys[site]) for site in missing}
            with suppress(_Enough):
                self._run(student, CALIBRATION, sources)
        return student

    def _run(self, student: _Student, number: int, calibrate: Mapping[int, nn.Module] = MappingProxyType({})) -> Tensor:
        """One pass through the network: its output, (b, 3, h, w).

        calibrate: blocks that are calibrated on the way, by number of the site; the pass ends behind the last.
        """
        known = self._known(student, number, min(calibrate, default=len(self._slots)))
        for site, slot in enumerate(self._slots):
            keep = site < known + self._reach
            if site < known:
                slot.act = partial(self._recall, student, number, site)
            elif site in calibrate:
                slot.act = partial(self._calibrate, student, site, keep, calibrate[site], site == max(calibrate))
            else:
                slot.act = partial(self._compute, student, number, site, keep)
        output: Tensor = self._net(self._passes[number])
        return output

    def _known(self, student: _Student, number: int, most: int) -> int:
        """How many of the first sites need not be computed in this pass."""
        for count in range(most, 0, -1):
            needed = (site for site in range(count) if self._last_use[site] >= count)
            if all((number, student.prefixes[site]) in self.cache for site in needed):
                return count
        return 0

    def _recall(self, student: _Student, number: int, site: int, *_: Tensor) -> Tensor:
        known: Tensor | None = self.cache.get((number, student.prefixes[site]))
        # Where nobody reads what a site gave, its shape is enough.
        if known is not None:
            return known
        return self._passes[number].new_zeros(()).expand(self._shapes[number, student.prefixes[site][0], site])

    def _compute(self, student: _Student, number: int, site: int, keep: bool, *inputs: Tensor) -> Tensor:
        began = time.thread_time()
        y: Tensor = student.blocks[site](*inputs)
        self._shapes[number, student.prefixes[site][0], site] = y.shape
        if keep:
            key, seconds = (number, student.prefixes[site]), time.thread_time() - began
            self.cache.put(key, y, nbytes=y.untyped_storage().nbytes(), seconds=seconds)
        return y

    def _calibrate(
        self, student: _Student, site: int, keep: bool, source: nn.Module, last: bool, *inputs: Tensor
    ) -> Tensor:
        began = time.thread_time()
        block = copy.deepcopy(source).eval()
        with calibrating(block, FOLLOWING):
            block(*inputs)
        student.blocks[site] = deploy(block)
        if keep:
            nbytes = sum(tensor.nbytes for tensor in student.blocks[site].state_dict().values())
            seconds = time.thread_time() - began
            self.cache.put(student.prefixes[site], student.blocks[site], nbytes=nbytes, seconds=seconds)
        if last:
            raise _Enough
        # Of the deployed block, as when it is known already: the scores do not depend on what was kept.
        return self._compute(student, CALIBRATION, site, keep, *inputs)

    def _source(self, key: SurrogateKey) -> nn.Module:
        """The module as it was handed in."""
        return self._module.get_submodule(key[0]) if key[1] == KEEP else self._surrogates[key]

    def _is_static(self, key: SurrogateKey) -> bool:
        return any(isinstance(part, FOLLOWING) for part in self._source(key).modules())

    def _block(self, key: SurrogateKey) -> nn.Module:
        """The module deployed, which is done once."""
        if key not in self._deployed:
            self._deployed[key] = deploy(self._source(key))
        return self._deployed[key]

    @torch.no_grad()
    def _flow(self, x: Tensor) -> list[int]:
        """For every site, the last one whose input changes with its output while all others' outputs are fixed.

        The number of sites stands for the network's output. x: (1, 3, h, w).
        """
        met: list[int] = []
        outputs: dict[int, Tensor] = {}

        def meet(site: int, *inputs: Tensor) -> Tensor:
            met.append(site)
            outputs[site] = self._deployed[self._paths[site], KEEP](*inputs)
            return outputs[site]

        def poison(source: int, site: int, *inputs: Tensor) -> Tensor:
            if any(bool(given.isnan().any()) for given in inputs):
                reached.append(site)
            return torch.full_like(outputs[site], torch.nan) if site == source else outputs[site]

        for site, slot in enumerate(self._slots):
            slot.act = partial(meet, site)
        self._net(x)
        if met != list(range(len(self._slots))):
            raise ConfigError(
                f"sites {', '.join(self._paths)}: one forward pass must meet each of them once, in this order"
            )
        last_use = []
        for source in range(len(self._slots)):
            reached = [source]
            for site, slot in enumerate(self._slots):
                slot.act = partial(poison, source, site)
            if bool(self._net(x).isnan().any()):
                reached.append(len(self._slots))
            last_use.append(max(reached))
        return last_use
