"""The kernels compile for GPUs, which needs none: to machine code for two generations, for three widths of rows.

Slow: minutes of compiler time.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="the kernels need triton (pip install 'infosteer[kernels]')")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from infosteer.ops.kernels import gated, launch, rows  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SWITCHES = {
    "LIFT": True, "SIGNED": False, "MAGNITUDE_MEAN": True, "FULL": True, "FROM_TENSOR": False, "NORM": 1,
    "HAS_GRAD": True, "SPREAD": True, "SIGNS": True, "HAS_MOMENTS": True, "ACTIVATION": 1, "ENTRIES": 128,
}  # fmt: skip
OTHERS = {"SIGNED": True, "MAGNITUDE_MEAN": False, "SIGNS": False, "FULL": False, "FROM_TENSOR": True, "NORM": 3,
          "HAS_MOMENTS": False, "ACTIVATION": 2}  # fmt: skip
KERNELS = [
    rows.rows_forward_kernel,
    rows.rows_backward_kernel,
    gated.gated_forward_kernel,
    gated.gated_backward_kernel,
]
FLOATS = ("strength_ptr", "moments_ptr", "entropy_ptr", "factor_ptr", "mean_ptr")


def compiled(kernel, kind, width, capability, switches):
    in_pieces = "CHUNK" in kernel.arg_names
    options = launch.piece_options(width) if in_pieces else launch.launch_options(width)
    constants = {name: value for name, value in {**SWITCHES, **switches, **options}.items() if name in kernel.arg_names}
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in FLOATS:
            signature[name] = "*fp32"
        elif name.endswith("_ptr"):
            signature[name] = {"entries_ptr": "*i16", "places_ptr": "*i32"}.get(name, f"*{kind}")
        else:
            signature[name] = "i32" if name in ("M", "m") or name.endswith("_stride") else "fp32"
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    warps = {name: value for name, value in options.items() if name not in ("BLOCK", "CHUNK")}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=warps)


def spilled(binary: bytes, folder: Path) -> int:
    """Bytes of a thread's local memory, to which registers spill."""
    path = folder / "kernel.cubin"
    path.write_bytes(binary)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    told = subprocess.run([tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout
    return int(told.split("STACK:")[1].split()[0])


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_compiles(kernel, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kind, width, switches in (("bf16", 8960, {}), ("fp32", 300, OTHERS), ("bf16", 18944, OTHERS)):
        binary = compiled(kernel, kind, width, capability, switches)
        bytes_a_thread = spilled(binary.asm["cubin"], tmp_path)
        print(f"{kernel.__name__} sm_{capability} {kind} M = {width}: {bytes_a_thread} bytes a thread spilled")
        assert bytes_a_thread <= 1280, "the row does not stay on chip"
