"""Scores through the cache are those of the assembled networks, whatever is in the cache."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from netgraft.assemble import assemble
from netgraft.distill import SurrogateKey, fit_surrogates, start_surrogates
from netgraft.errors import ConfigError
from netgraft.evaluate import batch_psnr_db
from netgraft.features import site_features
from netgraft.nets.blocks import deploy
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.operators import OPERATORS, options_for
from netgraft.prefix import CACHE_BYTES, REACH, PrefixScores
from netgraft.sites import KEEP, find_sites

SIDE = 36
"""Four levels of multiples of 4, which a half_res in the middle turns into 8: 36 is padded to 40 then."""

Assignment = dict[str, str]


class Setting:
    """A small teacher, untrained surrogates for every operator, and crops."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.teacher = NafNet(NafNetShape(width=4, encoder_blocks=(1, 2), middle_blocks=1, decoder_blocks=(1, 1)))
        start_residuals(self.teacher, 0.3)
        self.teacher.eval()
        self.sites = find_sites(self.teacher, (SIDE, SIDE))
        self.paths = [site.path for site in self.sites]
        self.degraded, self.clean, self.calibration = (torch.rand(n, 3, SIDE, SIDE) for n in (5, 5, 2))
        self.surrogates = start_surrogates(self.teacher, self.sites, OPERATORS, seed=0)
        fit_surrogates(self.surrogates, site_features(self.teacher, self.calibration, self.sites))

    def scores(self, max_bytes: int = CACHE_BYTES, reach: int = REACH) -> PrefixScores:
        return PrefixScores(
            self.teacher,
            self.paths,
            self.surrogates,
            degraded=self.degraded,
            clean=self.clean,
            calibration=self.calibration,
            max_bytes=max_bytes,
            reach=reach,
        )

    def plain(self, assignment: Assignment) -> float:
        student = assemble(self.teacher, assignment, self.surrogates, calibration=self.calibration)
        return batch_psnr_db(deploy(student), self.degraded, self.clean)

    def random(self, count: int, *, seed: int) -> list[Assignment]:
        rng = random.Random(seed)
        return [{site.path: rng.choice(options_for(site, OPERATORS)) for site in self.sites} for _ in range(count)]


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


def test_scores_are_those_of_assembled_networks(setting: Setting) -> None:
    """Any operators, those that change the resolution, the padding or are calibrated included."""
    scores = setting.scores()
    static = {site.path: "naf_static" for site in setting.sites if site.kind == "block"}
    first, middle = setting.paths[0], "middle_blks.0"
    assignments = [
        {},
        static,
        static | {first: KEEP},
        static | {first: "drop"},
        {middle: "half_res"},
        {middle: "drop"},
        {"downs.1": "strided3", "ups.0": "transposed"},
        {"ups.1": "transposed"},
        *setting.random(20, seed=1),
    ]
    found = [scores.psnr_db(assignment) for assignment in assignments]
    assert found == pytest.approx([setting.plain(assignment) for assignment in assignments], abs=1e-4)
    assert len(set(found)) > 20


@pytest.mark.parametrize(("max_bytes", "reach"), [(0, 3), (20_000, 3), (100_000, 10), (100_000, 1), (1_000_000, 10)])
def test_what_is_kept_changes_no_score(setting: Setting, max_bytes: int, reach: int) -> None:
    """Bit for bit, with a cache that loses any of the features at any time, and never holds more than it may."""
    base = setting.random(3, seed=2)
    rng = random.Random(3)
    # Neighbors of one another: long shared prefixes, come back to after others.
    assignments = []
    for site in rng.choices(setting.sites, k=12):
        near = dict(rng.choice(base))
        near[site.path] = rng.choice(options_for(site, OPERATORS))
        assignments.append(near)
    scores = setting.scores(max_bytes, reach)
    nothing = setting.scores(0)
    alone = [nothing.psnr_db(assignment) for assignment in assignments]
    assert [scores.psnr_db(assignment) for assignment in assignments] == alone
    assert scores.cache.peak_bytes <= max_bytes
    if max_bytes:
        assert scores.cache.peak_bytes > max_bytes // 2


class Counted(nn.Module):
    """A block that says when it runs; the list outlives every copy."""

    runs: list[str] = []  # noqa: RUF012

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.name, self.inner = name, inner

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(self.name)
        out: Tensor = self.inner(x)
        return out


def counted(setting: Setting) -> tuple[PrefixScores, Callable[[Assignment], set[str]]]:
    """Scores, and what scores an assignment and says at which sites blocks ran."""
    surrogates: dict[SurrogateKey, nn.Module] = {
        key: Counted(key[0], module) for key, module in setting.surrogates.items()
    }
    scores = PrefixScores(
        setting.teacher,
        setting.paths,
        surrogates,
        degraded=setting.degraded,
        clean=setting.clean,
        calibration=setting.calibration,
        reach=len(setting.paths),
    )

    def ran(assignment: Assignment) -> set[str]:
        Counted.runs.clear()
        scores.psnr_db(assignment)
        return set(Counted.runs)

    return scores, ran


def test_only_what_follows_the_shared_prefix_runs(setting: Setting) -> None:
    _, ran = counted(setting)
    dropped = {site.path: "drop" for site in setting.sites if site.kind == "block"}
    assert ran(dropped) == set(dropped)
    assert ran(dropped) == set()
    assert ran(dropped | {"middle_blks.0": "conv3"}) == {"middle_blks.0", "decoders.0.0", "decoders.1.0"}
    assert ran(dropped | {"decoders.1.0": "conv3"}) == {"decoders.1.0"}
    assert ran(dropped | {"decoders.1.0": KEEP}) == set()
    assert ran(dropped) == set()


def test_a_pass_adds_a_few_sites_to_what_is_known(setting: Setting) -> None:
    """Of ten sites, all dropped or kept, those past the third are computed again, and from then on past the sixth."""
    scores = setting.scores(reach=3)
    computed: list[int] = []
    for number, slot in enumerate(scores._slots):
        slot.register_forward_hook(lambda slot, *_, n=number: computed.append(n) if _is_computed(slot) else None)
    assignment = {site.path: "drop" for site in setting.sites if site.kind == "block"}
    for first in (0, 3, 6, 9, 10):
        computed.clear()
        scores.psnr_db(assignment)
        assert set(computed) == set(range(first, 10))


def _is_computed(slot: nn.Module) -> bool:
    act = slot.act
    assert isinstance(act, functools.partial)
    return act.func.__name__ == "_compute"


def test_calibration_runs_no_further_than_it_must(setting: Setting) -> None:
    """Up to the last frozen norm, and not at all when its prefix was calibrated before."""
    scores, _ = counted(setting)
    passes: list[int] = []
    scores._slots[0].register_forward_hook(lambda *_: passes.append(0))
    scores._slots[-1].register_forward_hook(lambda *_: passes.append(1))
    crops = len(setting.degraded)
    scores.psnr_db({"decoders.1.0": "drop"})
    assert passes.count(0) == passes.count(1) == crops
    passes.clear()
    scores.psnr_db({"encoders.1.0": "naf_static"})
    assert (passes.count(0), passes.count(1)) == (crops + 1, crops)
    passes.clear()
    scores.psnr_db({"encoders.1.0": "naf_static", "decoders.1.0": "drop"})
    assert passes.count(0) == passes.count(1) == crops


def test_a_student_that_diverges_scores_nothing_and_leaves_the_others_alone(setting: Setting) -> None:
    surrogates = dict(setting.surrogates)
    affine = copy.deepcopy(surrogates["encoders.0.0", "drop"])
    for parameter in affine.parameters():
        nn.init.constant_(parameter, torch.inf)
    surrogates["encoders.0.0", "drop"] = affine
    scores = PrefixScores(
        setting.teacher,
        setting.paths,
        surrogates,
        degraded=setting.degraded,
        clean=setting.clean,
        calibration=setting.calibration,
    )
    assert scores.psnr_db({"encoders.0.0": "drop"}) == 0.0
    assert scores.crop_psnrs_db({"encoders.0.0": "drop", "middle_blks.0": "naf_static"}) is None
    assert scores.psnr_db({"middle_blks.0": "drop"}) == pytest.approx(setting.plain({"middle_blks.0": "drop"}))


def test_crops_are_scored_one_by_one(setting: Setting) -> None:
    assignment = {"decoders.0.0": "naf_static"}
    student = deploy(assemble(setting.teacher, assignment, setting.surrogates, calibration=setting.calibration))
    found = setting.scores().crop_psnrs_db(assignment)
    pairs = zip(setting.degraded.split(1), setting.clean.split(1), strict=True)
    assert found == pytest.approx([batch_psnr_db(student, x, y) for x, y in pairs], abs=1e-4)


def test_neither_teacher_nor_surrogates_change(setting: Setting) -> None:
    sources = [setting.teacher, *setting.surrogates.values()]
    setting.teacher.train()
    before = [copy.deepcopy(module.state_dict()) for module in sources]
    types = [type(part) for part in setting.teacher.modules()]
    for assignment in setting.random(3, seed=4):
        setting.scores().psnr_db(assignment)
    assert [type(part) for part in setting.teacher.modules()] == types
    assert all(part.training for part in setting.teacher.modules())
    setting.teacher.eval()
    for module, was in zip(sources, before, strict=True):
        assert all(torch.equal(value, was[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("change", [lambda paths: paths[::-1], lambda paths: [*paths, paths[0]]])
def test_sites_that_are_not_in_the_order_of_the_data_are_refused(
    setting: Setting, change: Callable[[list[str]], list[str]]
) -> None:
    with pytest.raises(ConfigError, match="once, in this order"):
        PrefixScores(
            setting.teacher,
            change(setting.paths),
            setting.surrogates,
            degraded=setting.degraded,
            clean=setting.clean,
            calibration=setting.calibration,
        )
