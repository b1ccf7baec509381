"""The blocks of a U-Net in the order in which they are computed, those of equal shape together."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from genjax.models.unet_blocks import Shape


@dataclasses.dataclass(frozen=True)
class Run:
    """Consecutive blocks of equal shape in one `part` ("enc", "mid" or "dec"); scanned if several.

    `level`: 0 at full size, where the side is halved `level` times. `names`: the blocks'.
    """

    part: str
    level: int
    shape: Shape
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the run's parameters: the block's, or "first_to_last-number"."""
        first, last = self.names[0], self.names[-1]
        return first if first == last else f"{first}_to_{last.partition('block')[2]}"

    @property
    def units(self) -> int:
        """How many branches of one block a mask can take out."""
        return 1 + self.shape.attention


def line_up(
    channels: int,
    mult: Sequence[int],
    blocks: int,
    attention: Sequence[bool],
    *,
    decoder_all: bool,
    doubled: bool,
) -> tuple[Run, ...]:
    """Returns all runs.

    `attention`: whether a level has any, in every encoder block, and in all (`decoder_all`) or the
    last of its decoder blocks. `doubled`: the input pyramid is concatenated to what goes down.
    """
    skips = [channels]
    whole = [*_encoder(channels, mult, blocks, attention, doubled, skips)]
    top, x = len(mult) - 1, skips[-1]
    whole += [("mid", top, Shape(x, 0, x, "none", i == 0), f"mid{i}") for i in range(2)]
    whole += _decoder(channels, mult, blocks, attention, decoder_all, skips)
    grouped = itertools.groupby(whole, key=lambda block: block[:3])
    return tuple(Run(*key, names=tuple(block[3] for block in group)) for key, group in grouped)


_Block = tuple[str, int, Shape, str]


def _encoder(channels, mult, blocks, attention, doubled, skips: list[int]) -> Iterator[_Block]:
    """Yields the encoder's blocks; appends to `skips` the channels of what each of them leaves."""
    x = channels
    for level, m in enumerate(mult):
        if level:
            yield "enc", level, Shape(x, 0, x, "down", False), f"enc{level}_down"
            x *= 1 + doubled
            skips.append(x)
        for i in range(blocks):
            shape = Shape(x, 0, channels * m, "none", attention[level])
            yield "enc", level, shape, f"enc{level}_block{i}"
            x = channels * m
            skips.append(x)


def _decoder(channels, mult, blocks, attention, decoder_all, skips: list[int]) -> Iterator[_Block]:
    x = skips[-1]
    for level in reversed(range(len(mult))):
        if level < len(mult) - 1:
            yield "dec", level, Shape(x, 0, x, "up", False), f"dec{level}_up"
        for i in range(blocks + 1):
            attends = attention[level] and (decoder_all or i == blocks)
            shape = Shape(x, skips.pop(), channels * mult[level], "none", attends)
            yield "dec", level, shape, f"dec{level}_block{i}"
            x = channels * mult[level]
