"""Where the published weights of MAXIM belong: modules of :class:`~netgraft.nets.maxim.Maxim` by the authors' names."""

from __future__ import annotations

import re

from torch import nn

from netgraft.nets.maxim import LEVELS, Maxim
from netgraft.nets.nafnet import LayerNorm2d

Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.LayerNorm | LayerNorm2d

_AXES = "SplitHeadMultiAxis"
_STAGES = (
    (r"^output$", "stage_{last}_output_conv_0"),
    (r"^stages\.(\d+)\.inputs\.(\d+)", r"stage_\1_input_conv_\2"),
    (r"^stages\.(\d+)\.fuse\.(\d+)", r"stage_\1_input_fuse_sam_\2"),
    (r"^stages\.(\d+)\.encoders\.(\d+)", r"stage_\1_encoder_block_\2"),
    (r"^stages\.(\d+)\.downs\.(\d+)", r"stage_\1_encoder_block_\2/Conv_1"),
    (r"^stages\.(\d+)\.bottlenecks\.(\d+)\.merge", r"stage_\1_global_block_\2/input_proj"),
    (
        r"^stages\.(\d+)\.bottlenecks\.(\d+)\.blocks\.(\d*[13579])\.",
        r"stage_\1_global_block_\2/channel_attention_block_1_<\3>.",
    ),
    (r"^stages\.(\d+)\.bottlenecks\.(\d+)", r"stage_\1_global_block_\2"),
    (r"^stages\.(\d+)\.gate_ups\.(\d+)", r"stage_\1_cross_gating_block_\2/ConvTranspose_0"),
    (r"^stages\.(\d+)\.gates\.(\d+)(?:\.gating)?", r"stage_\1_cross_gating_block_\2"),
    (r"^stages\.(\d+)\.ups\.(\d+)", r"stage_\1_decoder_block_\2/ConvTranspose_0"),
    (r"^stages\.(\d+)\.decoders\.(\d+)", r"stage_\1_decoder_block_\2/UNetEncoderBlock_0"),
    (r"^stages\.(\d+)\.attention\.(\d+)", r"stage_\1_supervised_attention_module_\2"),
)
_PARTS = (
    (r"\.merge$", "/Conv_0"),
    (r"\.cross\b", "/cross_gating_block"),
    (r"\.blocks\.(\d*[02468])\b", rf"/{_AXES}GmlpLayer_<\1>"),
    (r"\.blocks\.(\d*[13579])\b", r"/channel_attention_block_1<\1>"),
    (r"GmlpLayer_(<\d+>)\.norm$", r"GmlpLayer_\1/LayerNorm_in"),
    (r"\.(grid|block)\.mix$", r".\1/Gating/Dense_0"),
    (r"\.(grid|block)\.gate_norm$", r".\1/Gating/intermediate_layernorm"),
    (r"\.(grid|block)\.norm$", r".\1/LayerNorm"),
    (r"\.grid(/Gating|\b)", r"/GridGmlpLayer\1"),
    (r"\.block(/Gating|\b)", r"/BlockGmlpLayer\1"),
    (r"(Grid|Block)GmlpLayer/Gating", r"\1GmlpLayer/\1GatingUnit"),
    (r"\.(x|y)_gate\.norm$", r"/LayerNorm_\1"),
    (r"\.(x|y)_gate\.project$", r"/in_project_\1"),
    (r"\.(x|y)_out$", r"/out_project_\1"),
    (r"\.x_in$", "/Conv_0"),
    (r"\.y_in$", "/Conv_1"),
    (r"\.(x|y)_gate\b", rf"/{_AXES}Gating_\1"),
    (r"\.gate_norm$", "/LayerNorm_in"),
    (r"\.mix_grid$", "/Dense_0"),
    (r"\.mix_block$", "/Dense_1"),
    (r"\.project_(in|out)$", r"/\1_project"),
    (r"\.attention\.squeeze$", "/channel_attention/Conv_0"),
    (r"\.attention\.excite$", "/channel_attention/Conv_1"),
    (r"\.mlp1$", "/channel_mixing/Dense_0"),
    (r"\.mlp2$", "/channel_mixing/Dense_1"),
    (r"\.norm$", "/LayerNorm"),
    (r"\.(conv[12])$", r"/\1"),
    (r"\.features$", "/Conv_0"),
    (r"\.image$", "/Conv_1"),
    (r"\.weights$", "/Conv_2"),
)


def layers(net: Maxim) -> dict[str, tuple[Layer, str]]:
    """Every module of ``net`` that has weights of its own, by path, with the authors' name for it."""
    return {
        path: (module, published_name(path, len(net.stages)))
        for path, module in net.named_modules()
        if isinstance(module, Layer)
    }


def published_name(path: str, stages: int) -> str:
    """The authors' name for the module at ``path`` of a network of so many stages."""
    resize = re.fullmatch(r"stages\.(\d+)\.(skips|bridges)\.(\d+)\.convs\.(\d+)", path)
    if resize is not None:
        # These alone are numbered in the order in which the network runs, from the lowest level up.
        stage, level, source = int(resize[1]), int(resize[3]), int(resize[4])
        if resize[2] == "bridges":
            source = LEVELS - 1 - source
        number = LEVELS * (LEVELS - 1 - level) + source
        first = LEVELS**2 * (2 * stage + (resize[2] == "bridges"))
        return f"UpSampleRatio_{first + number}/Conv_0"
    name = path
    for pattern, replacement in _STAGES + _PARTS:
        name = re.sub(pattern, replacement, name)
    # Blocks stand in pairs: the first pair holds 0 and 1.
    name = re.sub(r"<(\d+)>", lambda number: str(int(number[1]) // 2), name)
    return name.replace("{last}", str(stages - 1)).replace(".", "/")
