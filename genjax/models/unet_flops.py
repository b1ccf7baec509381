"""Operations of a U-Net, counted from its plan."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genjax.layers import resample
from genjax.models.unet_plan import Run

if TYPE_CHECKING:
    from genjax.models.unet import UNet


def forward_flops(net: "UNet", shape: Sequence[int]) -> float:
    """Returns 2 x multiply-accumulates of one image [h, w, c] forward: convolutions, products."""
    height, width, channels = shape
    first, emb = net.channels, net.channels * net.emb_mult
    features = first * net.noise_mult
    total = height * width * 9 * channels * first + features * emb + emb * emb
    total += net.num_classes * (emb if net.block == "adm" else features) + net.augment * features
    runs = net.runs(height)
    pyramid = channels
    for run in runs:
        pixels = (height >> run.level) * (width >> run.level)
        if net.block == "ddpm" and run.shape.resample != "none":
            total += pixels * 9 * run.shape.features**2
        else:
            total += len(run.names) * _block(net, run, pixels, emb)
        out = run.shape.features
        if run.shape.resample == "down" and net.progressive_input == "skip":
            total += pixels * (channels * out + _taps(net) * channels)
        if run.shape.resample == "down" and net.progressive_input == "residual":
            total += pixels * pyramid * (9 * out + 4 * _taps(net))
            pyramid = out
    return 2.0 * (total + sum(_heads(net, runs, height, width, channels)))


def _block(net: "UNet", run: Run, pixels: int, emb: int) -> int:
    shape, adm = run.shape, net.block == "adm"
    inputs, out = shape.inputs + shape.skip, shape.features
    macs = pixels * 9 * out * (inputs + out) + emb * out * (1 + adm)
    if inputs != out or (shape.resample != "none" and not adm):
        macs += pixels * inputs * out
    if shape.resample != "none":
        macs += 2 * pixels * inputs * _taps(net)
    if shape.attention:
        macs += pixels * 4 * out * out + 2 * pixels * pixels * out
    return macs


def _heads(net: "UNet", runs: Sequence[Run], height: int, width: int, channels: int):
    """Yields the multiply-accumulates of what leaves the decoder's levels."""
    last = {run.level: run.shape.features for run in runs if run.part == "dec"}
    for level, out in last.items():
        pixels, top = (height >> level) * (width >> level), level == len(net.channel_mult) - 1
        if level == 0 or net.progressive_output == "skip":
            yield pixels * 9 * out * channels
        if net.progressive_output == "residual":
            yield pixels * 9 * out * (out if top else last[level + 1])
        if net.progressive_output == "skip" and not top:
            yield pixels * channels * _taps(net)


def _taps(net: "UNet") -> int:
    """Returns the multiply-accumulates of the filter a pixel: none for the box."""
    n = len(net.resample_filter)
    return 0 if tuple(net.resample_filter) == resample.BOX else n * n
