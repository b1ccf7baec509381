"""Offline data stages, each run once before training (over one process or many).

dataset: a source as a folder of ArrayRecord shards; latents: images as autoencoder moments;
tokens: images as a tokenizer's codes; captions: a text model of a data set's captions.
"""

import argparse

from genjax.cli import prepare_captions, prepare_dataset, prepare_latents, prepare_tokens
from genjax.core.errors import UserError

HELP = "offline data stages: data sets, latents, tokens and text models"
TAKES_CONFIG = True  # `--config.a.b=VALUE` reaches the stages as `args.overrides`

STAGES = {
    "dataset": prepare_dataset,
    "latents": prepare_latents,
    "tokens": prepare_tokens,
    "captions": prepare_captions,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    stages = parser.add_subparsers(dest="stage", required=True, metavar="|".join(STAGES))
    for name, module in STAGES.items():
        stage = stages.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(stage)


def run(args: argparse.Namespace) -> int:
    """Runs the stage; returns its exit code."""
    if args.overrides and not getattr(args, "config", None):
        raise UserError(f"--config.{args.overrides[0][0]}: give --config FILE.py with it")
    return STAGES[args.stage].run(args)
