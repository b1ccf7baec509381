"""Plans of the full-size configs on sensible slices, as the table of docs/performance.md.

    python benchmarks/pod_plans.py --cache build/plans [--only dit,parti] [--list]

Each plan is a `genjax plan` of its own, which needs libtpu (extra `plan`) and minutes of compiling;
what the cache folder holds of the same program is not planned again, so the script can be stopped
and continued. The table holds what has been planned so far.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- plans: begin -->", "<!-- plans: end -->"
SOURCES = ("core", "layers", "models", "objectives", "parallel", "process", "tasks", "training")

# (config, topology, mesh; empty: the config's).
PLANS = [
    *((f"dit/imagenet256.py:{size}", "v5e:4x4", "") for size in ("S/2", "B/2", "L/2", "XL/2")),
    ("dit/imagenet512.py:XL/2", "v5e:8x8", ""),
    *((f"dit/sit_imagenet256.py:{size}", "v5e:4x4", "") for size in ("S/2", "B/2", "L/2", "XL/2")),
    ("score_sde/cifar10.py:ncsnpp-deep", "v5e:2x4", ""),
    ("score_sde/cifar10.py:ddpmpp-deep-vp", "v5e:2x4", ""),
    *((f"edm2/imagenet512.py:{size}", "v5e:8x8", "") for size in ("XXS", "XS", "S", "M")),
    *((f"edm2/imagenet512.py:{size}", "v5p:4x4x4", "") for size in ("L", "XL", "XXL")),
    ("edm2/imagenet64.py:S", "v5e:8x8", ""),
    ("vit_vqgan/imagenet256.py:SS", "v5e:4x4", ""),
    ("vit_vqgan/imagenet256.py:BB", "v5e:8x8", ""),
    ("vit_vqgan/imagenet256.py:SL", "v5p:4x4x4", ""),
    ("parti/parti.py:350M", "v5p:4x4x4", ""),
    ("parti/parti.py:750M", "v5p:4x4x4", ""),
    ("parti/parti.py:3B", "v5p:4x8x8", ""),
    ("parti/parti.py:20B", "v5p:8x8x8", ""),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", default="build/plans", help="folder of the plans made so far")
    parser.add_argument("--only", default="", help="words, one of which a config must contain")
    parser.add_argument("--list", action="store_true", help="print what would be planned")
    args = parser.parse_args()
    cache, words = Path(args.cache), [w for w in args.only.split(",") if w]
    rows = []
    for config, topology, mesh in PLANS:
        path = cache / f"{_name(config, topology, mesh)}.json"
        wanted = not words or any(word in config for word in words)
        if args.list:
            print(f"{'done' if path.exists() else 'to do':6}{config} on {topology} {mesh}")
            continue
        if wanted and not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            _plan(config, topology, mesh, path)
        if path.exists():
            rows.append((config, json.loads(path.read_text())))
    if rows:
        _write(rows)


def _name(config: str, topology: str, mesh: str) -> str:
    """Returns a file name that changes with all that a plan depends on."""
    digest = hashlib.sha256(f"{mesh} {metadata.version('jax')}".encode())
    for folder in (*(ROOT / "genjax" / name for name in SOURCES), ROOT / "configs"):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    plain = "".join(c if c.isalnum() else "-" for c in f"{config}-{topology}")
    return f"{plain}-{digest.hexdigest()[:12]}"


def _plan(config: str, topology: str, mesh: str, path: Path) -> None:
    print(f"{config} on {topology}", flush=True)
    command = [sys.executable, "-m", "genjax.cli.main", "plan", "--json", str(path.resolve())]
    command += ["--config", f"configs/{config}", "--topology", topology]
    done = subprocess.run([*command, *(["--mesh", mesh] if mesh else [])], cwd=ROOT)
    if done.returncode:
        print(f"  failed with exit code {done.returncode}", flush=True)


def _write(rows: list[tuple[str, dict]]) -> None:
    """Replaces the table in the page, between its marks."""
    lines = [
        "| config | slice | chips | mesh | batch a chip | memory a chip, GiB | step, s | MFU | "
        "bound | waiting | Pallas | limited by | days | chip-hours | compiled in, s |",
        "| --- " * 15 + "|",
    ]
    lines += [_line(config, plan) for config, plan in rows]
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.split(END)[1])


def _line(config: str, p: dict) -> str:
    memory, gib = p["bytes_per_chip"], 2**30
    used = "?" if memory["total"] is None else f"{memory['total'] / gib:.1f}"
    known = p["step_seconds"] is not None
    cells = [
        f"`{config}`",
        p["topology"],
        f"{p['chips']}",
        " ".join(f"{axis} {n}" for axis, n in p["mesh"].items() if n > 1) or "1",
        f"{p['batch'] / p['chips']:g}",
        f"{used} of {memory['capacity'] / gib:.0f}{'' if memory['fits'] else ': does not fit'}",
        f"{p['step_seconds']:.3f}" if known else "?",
        f"{p['mfu']:.3f}" if known else "?",
        f"{p['mfu_bound']:.3f}",
        f"{p['waiting_seconds'] / p['step_seconds']:.0%}" if known else "?",
        f"{p['kernel_share']:.0%}" if known else "?",
        p["limits"],
        f"{p['days']:.2f}",
        f"{p['chip_hours']:,.0f}",
        f"{p['compile_seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
