"""Frechet distance against network evaluations, for every solver on the same trained models.

    python benchmarks/samplers.py --models runs/quickstart runs/digits-edm
        --judge runs/digits-classifier --reference digits [--num 2000] [--nfe 2 4 6 8 10 16 24 50]

Every solver draws the same noise and labels on the model's own grid (`--grid` takes another), as
many steps as make the number of evaluations, where some do; guidance is the model's own. Prints a
table a model in Markdown and writes samplers.png into its workdir. One program is compiled a
solver and number of steps, so that short runs are mostly compilation.
"""

import argparse
from pathlib import Path

from genjax.cli.trials import SearchRun, Trials
from genjax.core.errors import UserError
from genjax.core.registry import construct, expand
from genjax.scaling.plots import curves
from genjax.solvers import SOLVERS

# The defaults of each, but for orders and variants worth a line of their own.
CHOSEN = {
    "DDIM": {"name": "ddim"},
    "Heun": {"name": "heun", "space": "lam"},
    "DPM-Solver-2": {"name": "dpm_solver", "order": 2},
    "DPM-Solver-3": {"name": "dpm_solver", "order": 3},
    "DPM-Solver multistep 2": {"name": "dpm_solver_multistep", "order": 2},
    "DPM-Solver++ 2S": {"name": "dpmpp_2s"},
    "DPM-Solver++ 2M": {"name": "dpmpp_2m"},
    "DPM-Solver++ 3M": {"name": "dpmpp_3m"},
    "UniPC-2": {"name": "unipc", "order": 2},
    "UniPC-3": {"name": "unipc", "order": 3},
    "S-PNDM": {"name": "pndm", "form": "s"},
    "F-PNDM": {"name": "pndm", "form": "f"},
    "PLMS": {"name": "plms"},
    "iPNDM": {"name": "ipndm"},
    "DEIS": {"name": "deis"},
    "LMS": {"name": "lms"},
    "DDIM, eta = 1": {"name": "ddim", "eta": 1.0},
    "Euler ancestral": {"name": "euler_ancestral"},
    "DPM-Solver++ SDE": {"name": "dpmpp_sde"},
    "DPM-Solver++ 2M SDE": {"name": "dpmpp_2m_sde"},
    "DPM-Solver++ 3M SDE": {"name": "dpmpp_3m_sde"},
}


def steps_for(solver: dict, process, nfe: int) -> int | None:
    """Returns how many steps cost `nfe` evaluations, None where none do."""
    built = SOLVERS.build(solver).bind(process)
    return next((n for n in range(1, nfe + 1) if built.nfe(n) == nfe), None)


def open_trials(model: str, args: argparse.Namespace) -> Trials:
    config = {
        "model": model,
        "reference": args.reference,
        "extractor": f"classifier:{args.judge}",
        "num": args.num,
        "batch": args.batch,
        "sampler": {"grid": {"name": args.grid}} if args.grid else {},
        "space": {"name": "steps", "steps": 1},
    }
    return Trials.open(construct(SearchRun, expand(SearchRun, config, "config"), "config"))


def measure(model: str, args: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Returns solver -> evaluations -> Frechet distance."""
    table = {}
    for label, solver in CHOSEN.items():
        if args.only and label not in args.only:
            continue
        table[label] = {}
        trials = open_trials(model, args)  # a solver's programs are dropped with it
        for nfe in args.nfe:
            steps = steps_for(solver, trials.model.task.process, nfe)
            if steps is None:
                continue
            try:
                value = trials.value({"solver": solver, "steps": steps}, args.num, args.seed)
            except UserError as error:
                print(f"{label}, {steps} steps: {error}", flush=True)
                continue
            table[label][nfe] = value
            print(f"{model}: {label}, NFE {nfe}: {value:.4f}", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", required=True, help="workdirs of trained models")
    parser.add_argument("--judge", required=True, help="workdir of a classifier")
    parser.add_argument("--reference", required=True, help="real images, such as digits")
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nfe", type=int, nargs="+", default=[2, 4, 6, 8, 10, 16, 24, 50, 100])
    parser.add_argument("--grid", help="grid in place of the model's own, such as logsnr")
    parser.add_argument("--only", nargs="+", choices=CHOSEN, help="these solvers")
    args = parser.parse_args()
    for model in args.models:
        table = measure(model, args)
        print(f"\n{model}, N = {args.num}, seed {args.seed}, grid {args.grid or 'of the model'}\n")
        print("| solver | " + " | ".join(map(str, args.nfe)) + " |")
        print("| --- |" + " --- |" * len(args.nfe))
        for label, row in table.items():
            cells = [f"{row[n]:.3g}" if n in row else "" for n in args.nfe]
            print(f"| {label} | " + " | ".join(cells) + " |")
        series = {k: (list(v), list(v.values())) for k, v in table.items() if v}
        picture = curves(series, "network evaluations", "Frechet distance")
        out = Path(model) / "samplers.png"
        out.write_bytes(picture)
        print(f"\n-> {out}\n", flush=True)


if __name__ == "__main__":
    main()
