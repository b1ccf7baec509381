"""Read public weights, or write them back out.

    genjax convert --from facebook-dit --in DiT-XL-2-256x256.pt --out weights/dit-xl2
    genjax convert --to facebook-dit --in weights/dit-xl2 --out dit.safetensors
    genjax convert --to facebook-dit --in runs/imagenet --out mine.safetensors

The first writes a folder that `genjax.load` and `config.init.model` read. The others take such a
folder, or a workdir of `genjax train`, and write one safetensors file in the public layout.
"""

import argparse
import ast
import os
import sys
from typing import Any

import flax.linen as nn

from genjax import weights
from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.core.tree import size
from genjax.weights import native

HELP = "read public weights, or write them back out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags."""
    formats = ", ".join(weights.FORMATS)
    parser.add_argument(
        "--from", dest="source_format", metavar="FORMAT", help=f"layout of --in: {formats}"
    )
    parser.add_argument(
        "--to", dest="target_format", metavar="FORMAT", help=f"layout of --out: {formats}"
    )
    parser.add_argument("--in", dest="source", required=True, metavar="PATH", help="what to read")
    parser.add_argument("--out", required=True, metavar="PATH", help="what to write")
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a configuration value that the tensors do not tell, under the reference's name "
        "(num_heads=4); may be repeated",
    )
    parser.add_argument(
        "--ema", help="of a workdir: the average to write (default: its first; raw: none)"
    )


def run(args: argparse.Namespace) -> int:
    """Converts and returns 0; raises `UserError` for wrong formats, files and paths."""
    if not args.source_format and not args.target_format:
        raise UserError("give --from FORMAT (public weights in) or --to FORMAT (back out)")
    if args.source_format:
        fields = dict(_field(text) for text in args.field)
        module, variables = weights.load(args.source_format, args.source, **fields)
        facts = weights.facts(args.source_format, module, variables)
    else:
        if args.field:
            raise UserError("--field describes public weights, so it needs --from")
        module, variables, facts = _own(args.source, args.target_format, args.ema)
    if args.target_format:
        if os.path.isdir(args.out):
            raise UserError(f"--out: {args.out} is a folder; give a file such as out.safetensors")
        weights.save(args.target_format, module, variables, args.out)
    else:
        if os.path.isfile(args.out):
            raise UserError(f"--out: {args.out} is a file; give a folder")
        native.write_native(args.out, module, variables, facts)
    count = size(variables["params"])
    print(f"{type(module).__name__} with {count:,} parameters: {args.source} -> {args.out}")
    return 0


def _own(path: str, format: str, ema: str | None) -> tuple[nn.Module, dict[str, Tree], dict]:
    """Returns network, variables and facts of a converted folder or of a workdir."""
    if native.is_native(path):
        return native.read_native(path)
    from genjax.cli.formats import task_of_format
    from genjax.cli.model import load

    model = load(path, ema=ema)
    module, shape = model.task.model, model.task.shape
    theirs = task_of_format(format, module, {"shape": shape})
    for part in ("process", "precond"):
        if getattr(theirs, part) != getattr(model.task, part):
            print(
                f"warning: {format} networks are read with {part} {getattr(theirs, part)}, but "
                f"this one was trained with {getattr(model.task, part)}: the file's readers must "
                "be told",
                file=sys.stderr,
            )
    constants = weights.constants(format, module, shape[:2])
    variables = {"params": model.params, **({"constants": constants} if constants else {})}
    return module, variables, {"shape": list(shape)}


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--field: {text!r} is no NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
