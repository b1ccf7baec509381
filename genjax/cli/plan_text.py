"""A plan in words."""

from collections.abc import Mapping
from typing import Any

_GIB = 2**30
_WHAT = {
    "train": "a training step",
    "sample": "a batch of samples",
    "decode": "one step of decoding",
}


def describe(p: Mapping[str, Any]) -> list[str]:
    """Returns the lines that `genjax plan` prints for its figures."""
    mesh = " x ".join(f"{axis} {n}" for axis, n in p["mesh"].items() if n > 1) or "one device"
    memory, state = p["bytes_per_chip"], p["state_bytes"]
    fits = {True: "fits", False: "DOES NOT FIT", None: "unknown whether it fits"}[memory["fits"]]
    lines = [
        f"{p['config']} on {p['topology']}: {_WHAT[p['what']]}, {p['chips']} chips, mesh {mesh}",
        f"  parameters     {p['params']:,}",
        f"  batch          {p['batch']:,} ({p['batch_per_device']:g} a device)"
        + (f", players {', '.join(p['players'])}" if p["players"] else ""),
        f"  memory         {_gib(memory['total'])} of {_gib(memory['capacity'])} a chip: {fits}",
        f"                 arguments {_gib(memory['arguments'])}, temporaries (activations) "
        f"{_gib(memory['temporaries'])}",
        "                 " + ", ".join(f"{k} {_gib(v)}" for k, v in state.items() if v),
        f"  FLOPs a step   {p['flops_per_step']:.4g} of the model, {p['program_flops']:.4g} with "
        "what is computed again",
        f"  roofline       {_time(p['roofline_seconds'])} a step, MFU at most {p['mfu_bound']:.3f}",
    ]
    if p["step_seconds"] is not None:
        lines += [
            f"  estimated      {_time(p['step_seconds'])} a step, MFU {p['mfu']:.3f}",
            f"                 fusions {_time(p['compute_seconds'])}, Pallas kernels "
            f"{_time(p['kernel_seconds'])} ({p['kernel_share']:.0%}, priced by shape), waiting for "
            f"collectives {_time(p['waiting_seconds'])}",
        ]
        for row in p["collectives"]:
            lines.append(
                f"    {row['kind']:<19}{row['axes']:<12}{row['count']:>7.0f} x "
                f"{row['bytes'] / 1e6:>10,.1f} MB {_time(row['seconds']):>10}, waited for "
                f"{_time(row['waiting'])}"
            )
    lines.append(f"  limited by     {p['limits']}")
    cost = f", cost {p['cost']:,.2f}" if "cost" in p else ""
    if p["what"] == "train":
        lines.append(
            f"  to the target  {p['steps']:,} steps, {p['days']:.2f} days, {p['chip_hours']:,.0f} "
            f"chip-hours{cost}"
        )
    else:
        lines.append(
            f"  images         {p['images_per_second']:,.4g} a second ({p['calls']:,} programs "
            f"each); 1,000 take {p['chip_hours']:.3g} chip-hours{cost}"
        )
    if p["compile_seconds"] is not None:
        lines.append(f"  compiled in    {p['compile_seconds']:.0f} s")
    for why in dict.fromkeys(p["missing"].values()):
        names = ", ".join(name for name, reason in p["missing"].items() if reason == why)
        lines.append(f"  missing        {names}: {why}")
    for row in p.get("search", ()):
        what = ", ".join(f"{k}={v}" for k, v in row["changes"].items()) or "as configured"
        if "refused" in row:
            lines.append(f"  tried {what}: {row['refused']}")
        else:
            fits = "" if row["fits"] else ", does not fit"
            mfu = "" if row["mfu"] is None else f", MFU {row['mfu']:.3f}"
            lines.append(f"  tried {what}: {_gib(row['total'])}{fits}{mfu}")
    return lines


def _gib(n: float | None) -> str:
    return "?" if n is None else f"{n / _GIB:.2f} GiB"


def _time(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"
