"""The `genjax` command: finds the sub-command and turns failures into exit codes.

Exit codes: 0 done; 2 the input is wrong (one line on standard error); 3 training diverged;
143 stopped by SIGTERM after saving; 1 anything else (a full disk or a hang in one line too).
"""

import argparse
import importlib
import importlib.util
import os
import sys
from pathlib import Path

from genjax.core.errors import Diverged, SaveFailed, UserError, is_full

COMMANDS = {
    "train": "train a model from a config (a second call on the same workdir resumes)",
    "sample": "draw samples from a trained or converted model",
    "edit": "inpaint, colourise, enlarge, guide to a class, encode or interpolate images",
    "eval": "measure samples against a reference and the config's target",
    "report": "write one HTML page about runs: curves, samples, metrics, settings",
    "plan": "memory, time and cost of a run on a TPU or GPU topology, without the hardware",
    "sweep": "train a design of runs (sizes x budgets), and fit and plot their scaling laws",
    "search": "search times, skip scales, blocks or other settings of a trained model's sampler",
    "prepare": "offline data stages: data sets and latents",
    "convert": "read public weights, or write them back out",
}


class _Parser(argparse.ArgumentParser):
    """Argument mistakes in the same single line as every other mistake."""

    def error(self, message):
        raise UserError(f"{message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv` (default: the process's) and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(argv)
    except UserError as error:
        print(f"genjax: error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"genjax: diverged: {error}", file=sys.stderr)
        return 3
    except SaveFailed as error:
        print(f"genjax: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if not is_full(error):
            raise
        print(f"genjax: {error.strerror}: {error.filename or 'the output'}", file=sys.stderr)
        return 1


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print("usage: genjax COMMAND ...    (genjax COMMAND --help lists its flags)\n")
        for name, meaning in COMMANDS.items():
            print(f"  {name:8s} {meaning}")
        return 0
    if argv[0] not in COMMANDS:
        raise UserError(f"{argv[0]!r} is no command; choose one of {', '.join(COMMANDS)}")
    _choose_platform()
    module = importlib.import_module(f"genjax.cli.{argv[0]}")
    parser = _Parser(
        prog=f"genjax {argv[0]}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    rest, overrides = argv[1:], []
    if getattr(module, "TAKES_CONFIG", False):
        from genjax.cli.config import split_overrides

        rest, overrides = split_overrides(rest)
    args = parser.parse_args(rest)
    args.overrides, args.argv = overrides, argv
    _use_compile_cache()
    return module.run(args)


def _choose_platform() -> None:
    """Keeps JAX from looking for a TPU that is not there.

    With libtpu installed (for `genjax plan`) and no TPU, JAX's start-up loses seconds on it.
    """
    if "JAX_PLATFORMS" in os.environ or importlib.util.find_spec("libtpu") is None:
        return
    accelerators = list(Path("/dev").glob("accel*")) + list(Path("/dev").glob("vfio/*"))
    if not accelerators and not os.environ.get("TPU_NAME"):
        gpu = Path("/dev/nvidia0").exists()
        os.environ["JAX_PLATFORMS"] = "cuda,cpu" if gpu else "cpu"


def _use_compile_cache() -> None:
    """Turns on JAX's persistent compilation cache (JAX_COMPILATION_CACHE_DIR moves it)."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(root / "genjax" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


if __name__ == "__main__":
    sys.exit(main())
