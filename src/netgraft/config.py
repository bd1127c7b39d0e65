"""The description of a run: one strict, frozen model, read from TOML once, and the presets."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from netgraft.data.images import DataConfig
from netgraft.devices import MIXED, timed_kind
from netgraft.distill import DistillConfig
from netgraft.errors import ConfigError
from netgraft.finetune import FinetuneConfig
from netgraft.names import lookup, unknown
from netgraft.nets.load import Teacher, load_teacher
from netgraft.operators import OPERATORS, operator_pool
from netgraft.saliency import METRICS
from netgraft.search import METHODS


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TeacherConfig(_Strict):
    """The pretrained network."""

    path: Path | None = None
    """An official ``.pth``, or a ``.safetensors`` file of a NAFNet or MAXIM; without it the embedded network."""
    tlc: tuple[int, int] | None = None
    """Height and width of its training crops, for local statistics; without it global ones."""
    factory: str | None = None
    """``package.module:factory`` of a network of one's own; ``path`` then holds its weights, or is left out."""

    def load(self) -> Teacher:
        """The network.

        Raises:
            CheckpointError: the file cannot be read or fits no network.
            ConfigError: the factory makes none.
        """
        return load_teacher(self.path, tlc=self.tlc, factory=self.factory)


class SaliencyConfig(_Strict):
    """How much each site is expected to matter, before anything is replaced."""

    metrics: tuple[str, ...] = tuple(METRICS)
    """Which metrics to compute."""
    crops: int = Field(8, ge=1)
    """Calibration crops."""
    crop: int = Field(64, ge=16)
    """Their side, in pixels."""

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for metric in metrics:
            lookup("saliency metric", metric, METRICS)
        return metrics


class SpaceConfig(_Strict):
    """What the search may change."""

    sites: Literal["all", "paper"] | tuple[str, ...] = "all"
    """``all`` blocks, downs and ups; ``paper``: the eight one-block stages; or site paths, where ``*`` stands for one
    part of a path: any module that may be a site, a whole stage for one."""
    operators: tuple[str, ...] = tuple(OPERATORS)
    """Operators on offer beside ``keep``; a user's own as ``package.module:NAME``."""
    protect_top: int = Field(1, ge=0)
    """How many of the most salient sites keep the teacher's block."""
    protect_by: str = "fisher"
    """The saliency metric that decides it."""
    protect: tuple[str, ...] = ()
    """Paths of sites that keep the teacher's block in any case."""

    @field_validator("sites", mode="before")
    @classmethod
    def _places(cls, sites: object) -> object:
        # Before pydantic, whose complaint about a choice of two types is hard to read.
        named = isinstance(sites, list | tuple) and sites and all(isinstance(path, str) for path in sites)
        if not named and sites not in ("all", "paper"):
            raise ConfigError(f"space.sites must be 'all', 'paper' or a list of site paths, but it is {sites!r}")
        return sites

    @field_validator("operators")
    @classmethod
    def _usable(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not operator_pool(names):
            raise ConfigError(f"space.operators offers nothing beside 'keep': the choices are {', '.join(OPERATORS)}")
        return names

    @field_validator("protect_by")
    @classmethod
    def _known(cls, metric: str) -> str:
        lookup("saliency metric", metric, METRICS)
        return metric


class DeviceConfig(_Strict):
    """What the latencies are measured on."""

    name: str = "onnxruntime"
    """``backend[:hardware][:precision]``, one of those that ``netgraft devices`` lists."""
    also: tuple[str, ...] = ()
    """Further devices, which the student is to be fast on as well."""
    threads: int = Field(1, ge=1)
    """Threads that one network runs on."""
    samples: int = Field(20, ge=1)
    """Timing samples of each block."""
    whole_samples: int = Field(12, ge=1)
    """Timing samples of each whole network where the additive model is checked."""
    final_samples: int = Field(40, ge=1)
    """Timing samples of teacher and student in the final, interleaved session."""
    check_networks: int = Field(10, ge=3)
    """Random assignments that are measured whole, to see whether block latencies add up."""
    calibration: int = Field(8, ge=1)
    """Training crops, at the profiled size, that whole networks are quantized on, where the device has fewer bits."""
    max_precision_loss_db: float = Field(0.3, ge=0)
    """What fewer bits may cost the student at most, on the test images against fp32; else fp32 is delivered."""
    base_tables: tuple[Path, ...] = ()
    """Latency tables of other devices (``latency_table.json`` of their runs), from which this one's is predicted."""
    probes: int = Field(10, ge=1)
    """Blocks that are measured then; all of them are where these show that the base tables do not suffice."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        timed_kind(name)
        return name

    @field_validator("also")
    @classmethod
    def _others(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for number, name in enumerate(names):
            timed_kind(name)
            if name in (info.data.get("name"), *names[:number]):
                raise ConfigError(f"the device {name} is named twice: each can be named once")
        return names

    @property
    def names(self) -> tuple[str, ...]:
        """All devices, the first one first."""
        return (self.name, *self.also)

    @property
    def mixed(self) -> bool:
        """Whether one of them computes some blocks in fewer bits than others, so that each may be in either."""
        return any(name.rpartition(":")[2] == MIXED for name in self.names)


class SearchConfig(_Strict):
    """How the assignments are searched."""

    method: str = "auto"
    budget: int = Field(150, ge=1)
    """Assignments whose quality is evaluated."""
    baselines: tuple[str, ...] = ()
    """Other methods that get the same budget, for comparison."""
    crops: int = Field(8, ge=1)
    """Validation crops that quality is judged on, at the profiled size."""
    calibration: int = Field(2, ge=1)
    """Training crops, at the profiled size, that each assembled network is calibrated on."""
    foresight_crops: int = Field(8, ge=0)
    """Training crops from which the loss by each replacement is foreseen, where "auto" starts; 0: it starts blindly."""
    cache_mib: int = Field(1024, ge=0)
    """Features that are kept between evaluations, in MiB at most; changes the time that they take, not the results."""
    max_loss_db: float = Field(1.0, gt=0)
    """The student is the fastest assignment that loses at most this, before it is fine-tuned."""
    joint: Literal["slowest", "each"] = "slowest"
    """What is minimized beside the loss where there are several devices: the slowest's latency, as a share of the
    teacher's there, or each one's."""
    choose: Literal["fastest_within", "knee", "fastest"] = "fastest_within"
    """Which point of the front becomes the student."""
    max_latency_ms: float | dict[str, float] | None = None
    """Hard limit of the student: its predicted latency, whole, on each device, or on those that are named."""
    max_macs: float | None = Field(None, gt=0)
    """Hard limit of the student: its multiply-accumulates, deployed, at the profiled size."""
    max_params: float | None = Field(None, gt=0)
    """Hard limit of the student: its parameters, deployed."""
    max_size_bytes: float | None = Field(None, gt=0)
    """Hard limit of the student: 4 bytes for each of its parameters and buffers, deployed."""
    min_psnr_db: float | None = Field(None, gt=0)
    """Hard limit of the student: its PSNR on the validation crops, before it is fine-tuned."""

    @field_validator("max_latency_ms", mode="before")
    @classmethod
    def _latency(cls, most: object) -> object:
        # Before pydantic, as for the sites.
        for value in most.values() if isinstance(most, dict) else (most,):
            number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
            if not number and most is not None:
                raise ConfigError(
                    f"search.max_latency_ms must be milliseconds above 0, or such by device, but it is {most!r}"
                )
        return most

    @field_validator("method")
    @classmethod
    def _method(cls, name: str) -> str:
        lookup("search method", name, METHODS)
        return name

    @field_validator("baselines")
    @classmethod
    def _baselines(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            lookup("search method", name, METHODS)
        return names


class GeneralizationConfig(_Strict):
    """How teacher and student are compared under conditions that they were not trained for."""

    crops: int = Field(5, ge=0)
    """Test images whose center crops, at the profiled size, are taken; 0 leaves the comparison out."""


class RunConfig(_Strict):
    """Everything that a run depends on."""

    seed: int = Field(0, ge=0)
    compute: str = "cpu"
    """Where PyTorch trains and judges: ``cpu``, or ``cuda``; latencies are the devices' own."""
    size: tuple[int, int] = (256, 256)
    """Height and width that the network is profiled and exported at, in pixels."""
    teacher: TeacherConfig = TeacherConfig()
    data: DataConfig = DataConfig()
    saliency: SaliencyConfig = SaliencyConfig()
    space: SpaceConfig = SpaceConfig()
    distill: DistillConfig = DistillConfig()
    device: DeviceConfig = DeviceConfig()
    search: SearchConfig = SearchConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    generalization: GeneralizationConfig = GeneralizationConfig()

    @field_validator("size")
    @classmethod
    def _whole_levels(cls, size: tuple[int, int]) -> tuple[int, int]:
        if min(size) < 64 or any(side % 16 for side in size):
            raise ConfigError(f"size {list(size)}: both sides must be multiples of 16, at least 64")
        return size

    @model_validator(mode="after")
    def _limited_devices(self) -> Self:
        limits = self.search.max_latency_ms
        for name in limits if isinstance(limits, dict) else ():
            lookup("device of this run in search.max_latency_ms", name, dict.fromkeys(self.device.names))
        return self

    def max_latency_ms(self, device: str) -> float | None:
        """The limit on the student's latency on a device of the run."""
        limits = self.search.max_latency_ms
        return limits.get(device) if isinstance(limits, dict) else limits


def demo_preset() -> RunConfig:
    """The embedded network and photographs on one thread of this machine's processor, within ten minutes."""
    return RunConfig(
        space=SpaceConfig(operators=("drop", "naf_static", "conv3_res", "inverted_residual", "half_res", "transposed")),
        distill=DistillConfig(steps=120, batch=4, data_fraction=1.0),
        device=DeviceConfig(whole_samples=8, final_samples=24),
        search=SearchConfig(budget=150, crops=6, max_loss_db=0.6),
        finetune=FinetuneConfig(steps=300),
    )


def paper_preset() -> RunConfig:
    """The recipe of arXiv 2601.11685: eight one-block stages, seven options, 25 % of the data, the fastest point.

    The most salient stage, the long 4th encoder, is protected: it is none of the eight, so no more need be.
    """
    return RunConfig(
        space=SpaceConfig(
            sites="paper",
            operators=(
                "drop",
                "conv3",
                "conv3_res",
                "inverted_residual",
                "partial_conv",
                "naf_no_attention",
            ),
            protect_top=0,
        ),
        distill=DistillConfig(data_fraction=0.25),
        search=SearchConfig(method="bayes", budget=100, choose="fastest"),
    )


def npu_preset() -> RunConfig:
    """The embedded network on an Arm Ethos-U85 by its compiler's estimate, from operators that NPUs compute whole."""
    return RunConfig(
        space=SpaceConfig(
            operators=(
                "drop",
                "naf_static",
                "naf_relu",
                "conv3_relu",
                "inverted_residual",
                "half_res",
                "strided3",
                "transposed",
                "resize",
            ),
            # An up that keeps its PixelShuffle costs more than the rest of the network.
            protect_top=0,
        ),
        distill=DistillConfig(steps=120, batch=4, data_fraction=1.0),
        # Whole networks take up to a minute each to compile.
        device=DeviceConfig(name="ethos-u:u85-2048", check_networks=3),
        search=SearchConfig(budget=100, crops=6, max_loss_db=0.6),
        finetune=FinetuneConfig(steps=500),
    )


def full_preset() -> RunConfig:
    """Every site and operator, trained longer: an hour or two on two cores."""
    return RunConfig(
        distill=DistillConfig(steps=1000),
        search=SearchConfig(budget=400, crops=12, baselines=("nsga2", "random")),
        finetune=FinetuneConfig(steps=4000),
        generalization=GeneralizationConfig(crops=30),
    )


def tiny_preset() -> RunConfig:
    """The demo in miniature: every stage on few sites at a small size, to see in a minute that all of it works."""
    return RunConfig(
        size=(64, 64),
        saliency=SaliencyConfig(crops=2, metrics=("snip", "fisher")),
        space=SpaceConfig(
            sites=("encoders.0.0", "encoders.3.0", "encoders.3.27", "ups.3", "decoders.3.0"),
            operators=("drop", "naf_static", "conv3_res", "transposed"),
        ),
        distill=DistillConfig(steps=4, batch=2, data_fraction=1.0),
        device=DeviceConfig(samples=3, whole_samples=2, final_samples=5, check_networks=3),
        search=SearchConfig(budget=12, crops=2, calibration=1, baselines=("random",)),
        finetune=FinetuneConfig(steps=3, batch=2, crop=64),
        generalization=GeneralizationConfig(crops=2),
    )


PRESETS: Mapping[str, Callable[[], RunConfig]] = MappingProxyType(
    {"demo": demo_preset, "paper": paper_preset, "full": full_preset, "npu": npu_preset, "tiny": tiny_preset}
)


def load_config(path: Path) -> RunConfig:
    """Read a TOML file strictly; ``preset = "NAME"`` at its top starts from a preset.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong; the message names it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name a TOML config or use --preset") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None
    preset = values.pop("preset", None)
    if preset is None:
        return parse_config(values, str(path))
    if preset not in PRESETS:
        raise ConfigError(f"{path}: {unknown('preset', str(preset), PRESETS)}")
    base = PRESETS[preset]().model_dump(mode="json")
    return parse_config(_merged(base, values), str(path))


def parse_config(values: Mapping[str, Any], source: str) -> RunConfig:
    """A config from plain data; ``source`` names it in errors.

    Raises:
        ConfigError: a key or value is wrong.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first_complaint(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def stored_config(folder: Path) -> RunConfig | None:
    """The config that a run folder was begun with; None if none was.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        return parse_config(json.loads(path.read_text()), str(path))
    except ValueError:
        raise ConfigError(f"{path}: damaged; name the config or the --preset again") from None


def _merged(base: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in values.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _first_complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        parent, _, name = where.rpartition(".")
        return unknown("key", name, list(_model_at(parent).model_fields)) + (f" in [{parent}]" if parent else "")
    return f"{where}: {first['msg']}, but it is {first.get('input')!r}"


def _model_at(where: str) -> type[BaseModel]:
    model: type[BaseModel] = RunConfig
    for name in filter(None, where.split(".")):
        annotation: Any = model.model_fields[name].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return model
