"""Where PyTorch computes. There is no GPU here: the device `meta`, which refuses to work with tensors of the
processor just as one does, stands in for it."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import netgraft.distill
import netgraft.finetune
from netgraft.compute import check_compute, moved
from netgraft.distill import Distillation, DistillConfig, start_surrogates
from netgraft.errors import ConfigError
from netgraft.finetune import FinetuneConfig, Finetuning
from netgraft.nets.blocks import deploy
from netgraft.nets.nafnet import NafNet
from netgraft.operators import OPERATORS
from netgraft.restore import open_restorer
from netgraft.sites import find_sites

ADAMW: Callable[..., Any] = torch.optim.AdamW


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors there have no values, and no fused optimizer."""

    def number(value: Any) -> float:
        return 0.5 if isinstance(value, torch.Tensor) and value.is_meta else builtins.float(value)

    for module in (netgraft.distill, netgraft.finetune):
        monkeypatch.setattr(module, "float", number, raising=False)
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, **options: ADAMW(*args, **options | {"fused": False}))


def test_what_there_is_not_is_refused() -> None:
    assert check_compute("cpu") == "cpu"
    for name in ("cuda:7", "abacus", "meta"):
        with pytest.raises(ConfigError, match=f"compute '{name}': PyTorch cannot use it here .*; cpu always works"):
            check_compute(name)
    with pytest.raises(ConfigError, match="abacus"):
        open_restorer(None, compute="abacus")


def test_the_processor_needs_no_copy(teacher: NafNet) -> None:
    assert moved(teacher, "cpu") is teacher
    elsewhere = moved(teacher, "meta")
    assert all(parameter.is_meta for parameter in elsewhere.parameters())
    assert not any(parameter.is_meta for parameter in teacher.parameters())


@pytest.mark.usefixtures("on_meta")
def test_all_of_a_fine_tuning_is_there(teacher: NafNet) -> None:
    config = FinetuneConfig(steps=2, batch=1, crop=16, fourier=0.1)
    work = Finetuning(teacher, teacher, config, "meta")
    work.run((torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)) for _ in range(2))
    assert work.step == 2
    assert all(parameter.is_meta for parameter in work.average.parameters())
    assert not any(parameter.is_meta for parameter in teacher.parameters())


@pytest.mark.usefixtures("on_meta")
def test_all_of_a_distillation_is_there(teacher: NafNet, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {name: OPERATORS[name] for name in ("conv3_res", "naf_static", "inverted_residual")}
    sites = find_sites(teacher, (16, 16))
    surrogates = start_surrogates(teacher, sites, pool, seed=0)
    work = Distillation(teacher, sites, surrogates, pool, DistillConfig(steps=2), compute="meta")
    back: list[str] = []
    # What has no values cannot come back; that it is asked to is what counts.
    monkeypatch.setattr(nn.Module, "to", lambda self, device, **_: back.append(device) or self)
    work.run(torch.rand(1, 3, 16, 16) for _ in range(2))
    assert work.step == 2
    assert back == ["cpu"] * len(surrogates)
    assert not any(parameter.is_meta for parameter in teacher.parameters())


def test_a_deployed_network_stays_where_it_is(teacher: NafNet) -> None:
    deployed = deploy(moved(teacher, "meta"))
    assert deployed(torch.empty(1, 3, 16, 16, device="meta")).is_meta
