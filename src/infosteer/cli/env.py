"""``infosteer env``: what is installed and what it runs on."""

from __future__ import annotations

from typing import Annotated

import typer


def env(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print versions, threads, devices and installed extras (paste this into bug reports)."""
    from infosteer.cli.console import make_console, print_json
    from infosteer.experiments.environment import environment, extras

    facts = {**environment(), "extras": extras()}
    if json:
        print_json(facts)
        return
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, package in facts["packages"].items():
        table.add_row(name, package or "not installed")
    table.add_row("python", f"{facts['python']} on {facts['platform']}")
    table.add_row("cpu", f"{facts['cpu_cores']} cores, {facts['torch_threads']} torch threads")
    devices = ", ".join(f"{d['name']} ({d['memory_gib']} GiB)" for d in facts["devices"])
    table.add_row("devices", f"{devices}; CUDA {facts['cuda']}" if devices else "CPU only")
    kernels = facts["kernels"]
    asked = f"; INFOSTEER_BACKEND asks for {kernels['override']}" if kernels["override"] else ""
    triton = f"triton {kernels['triton']}" if kernels["triton"] else "triton not installed"
    native = f"; no native code: {kernels['native']}" if kernels["native"] else ""
    table.add_row("kernels", f"GPU: {kernels['gpu']}, CPU: {kernels['cpu']} ({triton}{native}{asked})")
    table.add_row("extras", ", ".join(f"{k}: {'yes' if v else 'no'}" for k, v in facts["extras"].items()))
    make_console().print(table)
