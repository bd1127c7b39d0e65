"""Configs are read strictly: whatever is wrong is named in one line, with what would be right."""

from pathlib import Path

import pytest

from netgraft.config import PRESETS, RunConfig, load_config, parse_config
from netgraft.errors import ConfigError
from netgraft.operators import OPERATORS
from netgraft.saliency import METRICS
from netgraft.search import METHODS

EXAMPLES = sorted(
    path for path in (Path(__file__).parent.parent / "examples").rglob("*.toml") if path.name != "pyproject.toml"
)


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str) -> str:
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_config(name: str) -> None:
    config = PRESETS[name]()
    assert parse_config(config.model_dump(mode="json"), name) == config


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_valid_config(path: Path) -> None:
    config = load_config(path)
    assert config.teacher.path is not None or config.teacher.factory is not None


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == RunConfig()


def test_values_arrive_where_they_belong(tmp_path: Path) -> None:
    text = """
        seed = 3
        size = [64, 128]
        teacher.path = "net.pth"
        teacher.tlc = [256, 256]
        [space]
        sites = ["encoders.0.0", "ups.3"]
        operators = ["drop", "conv3"]
        [search]
        max_loss_db = 0.25
    """
    config = load_config(written(tmp_path, text))
    assert (config.seed, config.size, config.teacher.path) == (3, (64, 128), Path("net.pth"))
    assert config.teacher.tlc == (256, 256)
    assert config.space.sites == ("encoders.0.0", "ups.3")
    assert config.space.operators == ("drop", "conv3")
    assert config.search.max_loss_db == 0.25
    assert config.distill == RunConfig().distill


def test_a_file_changes_single_values_of_a_preset(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, 'preset = "paper"\n[search]\nbudget = 7\n[space]\nprotect_top = 2'))
    preset = PRESETS["paper"]()
    assert (config.search.budget, config.space.protect_top) == (7, 2)
    assert config.search.model_copy(update={"budget": preset.search.budget}) == preset.search
    assert config.space.model_copy(update={"protect_top": 0}) == preset.space
    assert config.space.sites == "paper"
    assert config.distill == preset.distill


def test_a_list_of_a_preset_is_replaced_as_a_whole(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, 'preset = "demo"\n[space]\noperators = ["drop"]'))
    assert config.space.operators == ("drop",)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sede = 1", ["key 'sede'", "did you mean 'seed'?", "finetune"]),
        ("[search]\nbugdet = 3", ["key 'bugdet'", "did you mean 'budget'?", "max_loss_db", "in [search]"]),
        ("[distill]\nstep = 3", ["key 'step'", "did you mean 'steps'?", "data_fraction", "in [distill]"]),
        ('preset = "demo"\n[data]\nsed = 1', ["key 'sed'", "'seed'", "strength_px", "in [data]"]),
        ("[search.more]\na = 1", ["key 'more'", "in [search]"]),
    ],
)
def test_an_unknown_key_is_named_with_the_valid_ones(text: str, parts: list[str], tmp_path: Path) -> None:
    message = complaint(tmp_path, text)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("text", "wrong", "meant", "choices"),
    [
        ('[saliency]\nmetrics = ["snip", "fishr"]', "fishr", "fisher", list(METRICS)),
        ('[space]\nprotect_by = "graps"', "graps", "grasp", list(METRICS)),
        ('[space]\noperators = ["conv3_rs"]', "conv3_rs", "conv3_res", list(OPERATORS)),
        ('[device]\nname = "onnxruntim"', "onnxruntim", "onnxruntime", ["onnxruntime", "fake"]),
        ('[search]\nmethod = "bayess"', "bayess", "bayes", list(METHODS)),
        ('[search]\nbaselines = ["random", "nsga"]', "nsga", "nsga2", list(METHODS)),
        ('preset = "dmo"', "dmo", "demo", list(PRESETS)),
        ('[data]\nsource = "goprp"', "goprp", "gopro", ["embedded", "sharp", "realblur_j", "dpdd"]),
    ],
)
def test_an_unknown_name_gets_the_choices_and_a_guess(
    text: str, wrong: str, meant: str, choices: list[str], tmp_path: Path
) -> None:
    message = complaint(tmp_path, text)
    assert f"{wrong!r}: did you mean {meant!r}?" in message
    assert all(choice in message for choice in choices), message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[distill]\nsteps = 0", ["distill.steps", "1", "0"]),
        ("[search]\nbudget = -3", ["search.budget", "-3"]),
        ("[search]\nmax_loss_db = inf", ["search.max_loss_db", "inf"]),
        ("[search]\nmax_loss_db = nan", ["search.max_loss_db", "nan"]),
        ('[search]\nchoose = "slowest"', ["search.choose", "fastest_within", "'slowest'"]),
        ('[finetune]\nprecision = "fp16"', ["finetune.precision", "bf16", "'fp16'"]),
        ("[device]\ncheck_networks = 2", ["device.check_networks", "3", "2"]),
        ("[space]\nprotect_top = -1", ["space.protect_top", "-1"]),
        ("seed = -1", ["seed", "-1"]),
        ("seed = 0.5", ["seed", "0.5"]),
        ("size = [64]", ["size.1"]),
        ("size = [65, 64]", ["size [65, 64]", "16"]),
        ("size = [48, 48]", ["size [48, 48]", "64"]),
        ("saliency = 5", ["saliency", "5"]),
        ('[space]\nsites = "encoders.0"', ["space.sites", "'all', 'paper' or a list", "'encoders.0'"]),
        ("[space]\nsites = [1]", ["space.sites", "[1]"]),
        ("[space]\nsites = []", ["space.sites", "[]"]),
        ("[space]\noperators = []", ["space.operators", "'keep'", "conv3_res"]),
        ('[space]\noperators = ["keep"]', ["space.operators", "'keep'"]),
        ('[space]\noperators = ["no_such_package:OP"]', ["'no_such_package:OP'", "imported"]),
        ('[space]\noperators = ["os:path"]', ["'os:path'", "Operator"]),
        ("[data]\nstrength_px = [9, 3]", ["strength_px [9.0, 3.0]"]),
        ('[data]\nsource = "gopro"', ["'gopro'", "root"]),
        ('[data]\nroot = "photos"', ["'embedded'", "root"]),
        ("[[search]]\nbudget = 3", ["search"]),
        ("budget = ", ["TOML"]),
        ('a = "\\q"', ["TOML"]),
    ],
)
def test_a_wrong_value_is_named_in_one_line(text: str, parts: list[str], tmp_path: Path) -> None:
    message = complaint(tmp_path, text)
    assert all(part in message for part in parts), message


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"seed = \xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_config(tmp_path / "bytes.toml")
    assert "\n" not in str(caught.value)
