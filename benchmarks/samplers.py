"""Frechet distance against network evaluations, for every solver on the same trained models.

    python benchmarks/samplers.py --models runs/quickstart runs/score_sde/vp --unguided
        --grids uniform karras --judge runs/digits-classifier --reference digits --out docs/images

Every solver draws the same noise and labels, in the most steps that the number of evaluations pays
for; a solver of two evaluations a step may leave one over, which is charged to it. Grid and
guidance are the model's own unless `--grids` (one a model) and `--unguided` say otherwise. Prints a
table a model in Markdown and writes a plot into `--out`. The adaptive solver has a point for each
tolerance, at the evaluations that it took. One program is compiled a solver and number of steps, so
that short runs are mostly compilation.
"""

import argparse
from pathlib import Path

import numpy as np

from genjax.cli.trials import SearchRun, Trials
from genjax.core.errors import UserError
from genjax.core.registry import construct, expand
from genjax.scaling.plots import curves
from genjax.solvers import SOLVERS

# The defaults of each, but for orders and variants worth a line of their own.
CHOSEN = {
    "Euler in t": {"name": "euler"},
    "DDIM": {"name": "ddim"},
    "Heun in t": {"name": "heun"},
    "EDM's Heun": {"name": "edm"},
    "EDM's Heun, churn 10": {"name": "edm", "S_churn": 10.0},
    "Restart": {"name": "restart", "intervals": ((0.1, 0.5, 2, 1),)},
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
    "DDPM": {"name": "ddpm"},
    "DDIM, eta = 1": {"name": "ddim", "eta": 1.0},
    "Euler ancestral": {"name": "euler_ancestral"},
    "SiT's SDE": {"name": "sit_sde"},
    "Predictor-corrector": {"name": "pc"},
    "DPM-Solver++ 2S ancestral": {"name": "dpmpp_2s_ancestral"},
    "DPM-Solver++ SDE": {"name": "dpmpp_sde"},
    "DPM-Solver++ 2M SDE": {"name": "dpmpp_2m_sde"},
    "DPM-Solver++ 3M SDE": {"name": "dpmpp_3m_sde"},
}
TOLERANCES = (1e-1, 1e-2, 1e-3)  # of RK45


def steps_for(solver: dict, process, nfe: int) -> int | None:
    """Returns how many steps cost `nfe` evaluations or one less, None where none do."""
    built = SOLVERS.build(solver).bind(process)
    return next((n for n in range(nfe, 0, -1) if nfe - 1 <= built.nfe(n) <= nfe), None)


def open_trials(model: str, grid: str | None, args: argparse.Namespace) -> Trials:
    sampler = {"grid": {"name": grid}} if grid else {}
    if args.unguided:
        sampler["guidance"] = {"name": "none"}
    config = {
        "model": model,
        "reference": args.reference,
        "extractor": f"classifier:{args.judge}",
        "num": args.num,
        "batch": args.batch,
        "sampler": sampler,
        "space": {"name": "steps", "steps": 1},
    }
    return Trials.open(construct(SearchRun, expand(SearchRun, config, "config"), "config"))


def measure(model: str, grid: str | None, args: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Returns solver -> evaluations -> Frechet distance."""
    table = {}
    for label, solver in CHOSEN.items():
        if args.only and label not in args.only:
            continue
        table[label] = {}
        trials = open_trials(model, grid, args)  # a solver's programs are dropped with it
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
    if not args.only or "RK45" in args.only:
        table["RK45"] = adaptive(model, args)
    return table


def adaptive(model: str, args: argparse.Namespace) -> dict[int, float]:
    """Returns mean evaluations an image -> Frechet distance of RK45, by tolerance."""
    points = {}
    for tolerance in TOLERANCES:
        trials = open_trials(model, "score_sde", args)
        solver = {"name": "rk45", "rtol": tolerance, "atol": tolerance}
        changes = {"solver": solver, "steps": 1}
        value = trials.value(changes, args.num, args.seed)
        nfe = round(float(np.mean(trials.measures["nfe"])))
        points[nfe] = value
        print(f"{model}: RK45 at {tolerance:g}, NFE {nfe}: {value:.4f}", flush=True)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", required=True, help="workdirs of trained models")
    parser.add_argument("--judge", required=True, help="workdir of a classifier")
    parser.add_argument("--reference", required=True, help="real images, such as digits")
    parser.add_argument("--out", default=".", help="folder of the plots")
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nfe", type=int, nargs="+", default=[2, 4, 6, 8, 10, 16, 24, 50, 100])
    parser.add_argument("--grids", nargs="+", help="a grid a model, such as logsnr")
    parser.add_argument("--unguided", action="store_true", help="the conditional model alone")
    parser.add_argument("--only", nargs="+", choices=[*CHOSEN, "RK45"], help="these solvers")
    args = parser.parse_args()
    if args.grids and len(args.grids) != len(args.models):
        parser.error("--grids: give one for each of --models")
    for model, grid in zip(args.models, args.grids or [None] * len(args.models)):
        table = measure(model, grid, args)
        rk45 = table.pop("RK45", {})
        print(f"\n{model}, N = {args.num}, seed {args.seed}, grid {grid or 'of the model'}\n")
        print("| solver | " + " | ".join(map(str, args.nfe)) + " |")
        print("| --- |" + " --- |" * len(args.nfe))
        for label, row in table.items():
            cells = [f"{row[n]:.3g}" if n in row else "" for n in args.nfe]
            print(f"| {label} | " + " | ".join(cells) + " |")
        print("RK45: " + ", ".join(f"{v:.3g} at NFE {n}" for n, v in rk45.items()))
        rows = {**table, "RK45": rk45}
        series = {k: (list(v), list(v.values())) for k, v in rows.items() if v}
        picture = curves(series, "network evaluations", "Frechet distance")
        out = Path(args.out) / f"samplers_{Path(model).name}.png"
        out.write_bytes(picture)
        print(f"\n-> {out}\n", flush=True)


if __name__ == "__main__":
    main()
