"""Native code for rows on the CPU: the bits of PyTorch's edit, float64's gradients; how it is compiled, or is not."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infosteer.errors import ConfigError
from infosteer.ops import backends, cpu, cpu_rows
from infosteer.ops.backends import describe, use_backend
from infosteer.ops.entropy import entropy_gradient_rows, key_entropy
from infosteer.ops.inject import inject
from infosteer.ops.intervene import intervene
from infosteer.ops.native import build, trial
from infosteer.ops.native import rows as native
from infosteer.ops.rows import mean_of, unpack_entries
from infosteer.ops.steered import add_entropy_gradient
from infosteer.ops.together import intervene_and_inject
from infosteer.ops.trials import awkward_rows

from . import references

DTYPES = [torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(isinstance(build.library(), str), reason=f"no native code: {build.library()}")
SCALES = st.sampled_from([1.0, 1e-4, 1e-30, 1e-44, 1e30])


def rows_of(kind: str, seed: int, count: int, width: int, dtype: torch.dtype, scale: float) -> torch.Tensor:
    numbers = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=numbers) * torch.randn(count, 1, generator=numbers).exp()
    if kind == "sparse":
        rows = torch.where(rows > 0.5, rows, 0.0)
    elif kind == "ties":
        rows = (rows * 2).round() / 2
    elif kind == "equal":
        rows = torch.full_like(rows, -0.5)
    elif kind == "heavy":
        rows = rows**5
    elif kind == "not finite":
        rows[:, 0], rows[:, width // 2] = math.nan, -math.inf
    return (rows * scale).to(dtype)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["ordinary", "sparse", "ties", "equal", "heavy", "not finite"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10_000),
    count=st.integers(0, 5),
    width=st.integers(2, 150),
    share=st.floats(0, 1),
    order=st.sampled_from(["magnitude", "signed"]),
    reference=st.sampled_from(["magnitude_mean", "mean"]),
    strength=st.sampled_from([1.0, 0.3, -2.0, 1 - 1e-9]),
    alpha=st.sampled_from([1.0, -1.5]),
    scale=SCALES,
    threads=st.sampled_from([1, 3]),
)
def test_the_edit_has_pytorchs_bits_however_it_is_named(
    kind, dtype, seed, count, width, share, order, reference, strength, alpha, scale, threads
):
    rows = rows_of(kind, seed, count, width, dtype, scale)
    m = min(width - 1, max(1, round(share * width)))
    torch.set_num_threads(threads)
    want = references.smallest_mask(rows, m, order)
    index = torch.arange(width).expand(count, width)[want].reshape(count, m)
    expected = cpu_rows.edit_rows(rows, m, index, alpha, reference, strength)
    for named in ("places", "mask", "packed"):
        before = rows.clone()
        got = native.edit_rows(rows, mean_of(rows, reference), m, order, alpha, reference, strength, named)
        assert torch.equal(rows.view(got.out.dtype).nan_to_num(7.0), before.nan_to_num(7.0))  # k is never written to
        torch.testing.assert_close(got.out, expected.out, rtol=0, atol=0, equal_nan=True)
        if named == "mask":
            assert torch.equal(got.where != 0, want)
            assert got.odd == bool((~(rows.abs() > 0)).any())
            where, signs = index, (-2 - got.where)[want].reshape(count, m)
        elif named == "places":
            where, signs = got.where, got.signs
        else:
            where, signs = unpack_entries(got.where)
        assert torch.equal(where.long(), index)
        assert torch.equal(signs, expected.signs)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["ordinary", "sparse", "ties", "equal"]),
    seed=st.integers(0, 10_000),
    width=st.integers(2, 150),
    fraction=st.floats(0.01, 1),
    order=st.sampled_from(["magnitude", "signed"]),
    reference=st.sampled_from(["magnitude_mean", "mean"]),
    strength=st.sampled_from([1.0, 0.3]),
    alpha=st.sampled_from([1.0, -1.5]),
    detach=st.booleans(),
    with_entropy=st.booleans(),
)
def test_gradients_are_those_of_the_formulas_in_float64(
    kind, seed, width, fraction, order, reference, strength, alpha, detach, with_entropy
):
    k = rows_of(kind, seed, 4, width, torch.float32, 1.0)
    numbers = torch.Generator().manual_seed(seed)
    grad = torch.randn(k.shape, generator=numbers)
    weight, scale = torch.tensor([1.0, 0.0, 0.5, 2.0]), torch.tensor(-0.7)
    leaf, wide = k.clone().requires_grad_(), k.double().requires_grad_()
    m = max(1, round(fraction * width))
    edited = references.intervene(wide, m, alpha, order, reference, detach, strength)
    loss = (edited * grad.double()).sum()
    chosen = {"fraction": fraction, "alpha": alpha, "order": order, "reference": reference, "strength": strength}
    with use_backend("native"):
        if with_entropy:
            out = intervene_and_inject(leaf, weight, scale, **chosen, detach_reference=detach)
            entropy = key_entropy(edited)  # of float64; its own gradient is tested against autograd elsewhere
            loss = loss + float(scale) * (entropy * weight).sum()
        else:
            out = intervene(leaf, **chosen, detach_reference=detach)
        (got,) = torch.autograd.grad(out, leaf, grad)
    (want,) = torch.autograd.grad(loss, wide)
    # the mean's sign at a zero is 0 in autograd's formula too; entries at exactly 0 have no entropy gradient of ours
    torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("width", [4864, 8960, 9216, 11008, 18944])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_widths_of_real_models(width, dtype):
    k = awkward_rows(width, dtype, torch.device("cpu"))
    grad, factor = k.flip(0).contiguous(), torch.full((8,), -0.01)
    for fraction in (0.01, 0.5):
        found = []
        for backend in ("torch", "native"):
            with use_backend(backend):
                edit = cpu.edit_rows(k, round(fraction * width), "magnitude", 1.0, "magnitude_mean", 1.0)
                back = cpu.edit_gradient(grad, edit, 1 / width, 1.0, True)
                entropy = cpu.add_entropy_gradient(k[:5], grad[3:], factor[:5])
            found.append((edit.out, back, entropy))
        torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0, equal_nan=True)
        for fast, slow in zip(found[1][1:], found[0][1:], strict=True):
            assert (fast is None) == (slow is None)
            if slow is not None:
                assert trial.close(slow, fast, trial.TOLERANCES[dtype])


def test_numbers_below_the_normal_ones_have_their_logarithm():
    k = torch.rand(1, 64)
    k[0, :4] = torch.tensor([1e-38, 1e-40, 1e-44, 0.0])
    wide = k.double().requires_grad_()
    (want,) = torch.autograd.grad(key_entropy(wide).sum(), wide)
    got = native.gradient_rows(torch.zeros(1, 64), k, None, torch.ones(1), None, 1.0, False)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


def test_threads_do_not_change_a_bit():
    k, grad = torch.randn(37, 500), torch.randn(37, 500)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        edit = native.edit_rows(k, mean_of(k, "magnitude_mean"), 9, "magnitude", 1.0, "magnitude_mean", 1.0, "places")
        factor = torch.linspace(-1, 1, 37)
        found.append((edit.out, native.gradient_rows(grad, edit.out, edit, factor, 1 / 500, 1.0, True)))
    for out, back in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(back, found[0][1])


def test_rows_that_float32_does_not_carry_go_to_pytorch():
    k = torch.full((2, 8), 1e7)
    assert native.gradient_rows(torch.ones(2, 8), k, None, torch.ones(2), None, 1.0, False) is None
    k = torch.randn(2, 8)
    k[1, 3] = math.nan
    assert native.gradient_rows(torch.ones(2, 8), k, None, torch.ones(2), None, 1.0, False) is None
    assert native.gradient_rows(torch.ones(2, 8), k, None, torch.tensor([1.0, 0.0]), None, 1.0, False) is not None


class Tagged(torch.Tensor):
    """A tensor of another class, as DTensor is one: its memory may not be what it seems."""


def test_what_native_code_cannot_read_goes_to_pytorch(monkeypatch):
    k = torch.randn(3, 40)
    assert native.fits(k, k.clone())
    for rows in (k.double(), k.half(), k[:, :0], k.as_subclass(Tagged)):
        assert not native.fits(rows)
    assert not native.fits(k, k.bfloat16())
    assert not native.fits(k, torch.randn(3, 41))
    with torch._subclasses.FakeTensorMode():
        assert not native.fits(torch.empty(3, 40))
    for odd in (torch._neg_view(k), torch._efficientzerotensor((3, 40)), k.to("meta"), k.to_sparse()):
        assert not native.fits(odd)
    torch.func.functionalize(lambda rows: cpu.edit_rows(rows, 4, "magnitude", 1.0, "mean", 1.0).out)(k)
    with torch.device("meta"):  # where new tensors go is not where these rows are
        assert (
            native.edit_rows(k, mean_of(k, "mean"), 4, "magnitude", 1.0, "mean", 1.0, "places").out.device == k.device
        )
    leaf = torch.randn(6, 80, requires_grad=True)
    strided = leaf[::2, ::2]
    out = intervene(strided, 0.1)
    torch.testing.assert_close(out, intervene(strided.detach().clone(), 0.1), rtol=0, atol=0)
    (got,) = torch.autograd.grad(out, leaf, torch.ones(3, 1).expand(3, 40))
    assert got[1::2].abs().sum() == 0
    assert got[::2, ::2].abs().sum() > 0


def test_a_compiled_graph_uses_it_too(monkeypatch):
    assert trial.takes(torch.randn(5, 90))  # its trial calls it too
    calls = []
    gradient = native.gradient_rows
    monkeypatch.setattr(native, "gradient_rows", lambda *given: calls.append(1) or gradient(*given))
    k, grad = torch.randn(5, 90), torch.randn(5, 90)
    for fraction in (0.05, 0.5):
        found = []
        for call in (intervene, torch.compile(intervene, backend="aot_eager", fullgraph=True)):
            leaf = k.clone().requires_grad_()
            out = call(leaf, fraction)
            found.append((out.detach(), *torch.autograd.grad(out, leaf, grad)))
        assert torch.equal(found[0][0], found[1][0])
        torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-6, atol=1e-6)
    assert len(calls) == 4


def test_a_penalty_in_a_compiled_graph_uses_it_too(monkeypatch):
    assert trial.takes(torch.randn(5, 90))  # its trial calls it too
    calls = []
    gradient = native.gradient_rows
    monkeypatch.setattr(native, "gradient_rows", lambda *given: calls.append(1) or gradient(*given))
    k, grad, weight = torch.randn(5, 90), torch.randn(5, 90), torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
    scale = torch.tensor(-0.3)

    def penalised(k):
        def add(rows, gradient, factor):
            return add_entropy_gradient(rows, gradient, factor, "magnitude")

        return inject(k, weight, scale, entropy_gradient_rows, add)

    found = []
    for call in (penalised, torch.compile(penalised, backend="aot_eager", fullgraph=True)):
        leaf = k.clone().requires_grad_()
        found.append(torch.autograd.grad(call(leaf), leaf, grad)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(found[1][1], grad[1])
    assert len(calls) == 2


# -- which code computes ----------------------------------------------------------------------------------------------


@pytest.fixture
def _fresh(monkeypatch):
    """A process that has not looked for native code yet, and forgets afterwards what it found."""
    monkeypatch.setattr(backends, "_environment", None)
    monkeypatch.setattr(backends, "_override", None)
    monkeypatch.setattr(backends, "_tried", {})
    build.library.cache_clear()
    yield
    build.library.cache_clear()


@pytest.mark.usefixtures("_fresh")
def test_without_a_compiler_pytorch_computes(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert "no C compiler" in describe()["native"]
    assert describe()["cpu"] == "torch"
    k = torch.randn(3, 40)
    assert not trial.takes(k)
    assert intervene(k, 0.1).shape == k.shape
    with pytest.raises(ConfigError, match=r"(?s)no native back end.*no C compiler.*install gcc"), use_backend("native"):
        raise AssertionError("not reached")


RUBBISH = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo x > "$2"; shift; done; exit 0'


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("broken", ["exit 1", "echo 'fatal: no such flag' >&2; exit 4", "exit 0", RUBBISH])
def test_a_broken_compiler_is_no_compiler(broken, monkeypatch, tmp_path, caplog):
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\n{broken}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with caplog.at_level(logging.WARNING):
        assert isinstance(build.library(), str)
        assert "made no library" in build.library()
    assert [record.getMessage().count("PyTorch takes its place") for record in caplog.records] == [1]
    assert not trial.takes(torch.randn(3, 40))
    assert not list((tmp_path / "cache").rglob("tmp*"))


@pytest.mark.usefixtures("_fresh")
def test_a_compiler_that_knows_no_flags_still_makes_a_library(monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    real = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *=native*|*-fopenmp*) exit 1;; esac\nexec {real} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert isinstance(build.library(), ctypes.CDLL)
    assert trial.takes(torch.randn(3, 40))


@pytest.mark.usefixtures("_fresh")
def test_what_the_compiler_says_may_be_in_any_encoding(monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_bytes(b"#!/bin/sh\necho '\xe9chec' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert "chec" in build.library()


@pytest.mark.usefixtures("_fresh")
def test_a_compiler_may_have_arguments_or_not_be_there(monkeypatch, tmp_path, caplog):
    real = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", f"env {real}")
    assert isinstance(build.library(), ctypes.CDLL)
    build.library.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler -O3")
    with caplog.at_level(logging.WARNING):
        assert isinstance(build.library(), ctypes.CDLL)
    assert "no-such-compiler" in caplog.text


@pytest.mark.usefixtures("_fresh")
def test_a_library_that_others_may_write_is_not_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert isinstance(build.library(), ctypes.CDLL)
    (kept,) = (tmp_path / "infosteer").glob("*.so")
    for place in (kept, tmp_path / "infosteer"):
        place.chmod(0o777)
        build.library.cache_clear()
        assert build.library()._name != str(kept) or not kept.stat().st_mode & 0o022
        place.chmod(0o700)


@pytest.mark.usefixtures("_fresh")
def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert isinstance(build.library(), ctypes.CDLL)


@pytest.mark.usefixtures("_fresh")
def test_a_library_that_does_not_load_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert isinstance(build.library(), ctypes.CDLL)
    (file,) = (tmp_path / "infosteer").glob("*.so")
    code = "from infosteer.ops.native.build import library; print(type(library()).__name__)"
    file.write_bytes(b"\x7fELF, cut off")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert ran.stdout.strip() == "CDLL", ran.stderr
    assert file.stat().st_size > 1000


def test_processes_that_compile_at_once_do_not_meet(tmp_path):
    code = (
        "import torch; from infosteer.ops.native import trial; print(trial.takes(torch.randn(2, 50)), "
        "trial.takes(torch.randn(2, 50).bfloat16()))"
    )
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in started] == ["True True"] * 3
    left = [file.name for file in (tmp_path / "infosteer").iterdir()]
    assert len(left) == 1, left


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("wrong", ["edit_rows", "gradient_rows"])
def test_code_that_computes_something_else_is_not_used(wrong, monkeypatch, caplog):
    right = getattr(native, wrong)

    def off(*given):
        found = right(*given)
        (found if wrong == "gradient_rows" else found.out)[0, 3] += 0.25
        return found

    monkeypatch.setattr(native, wrong, off)
    k = torch.randn(3, 40)
    with caplog.at_level(logging.WARNING):
        assert not trial.takes(k)
        torch.testing.assert_close(
            intervene(k, 0.1), references.intervene(k, 4, 1.0, "magnitude", "magnitude_mean"), rtol=0, atol=1e-7
        )
    assert caplog.text.count("The kernel native is not used, PyTorch takes its place") == 1


@pytest.mark.usefixtures("_fresh")
def test_on_one_thread_it_gives_way_to_many(monkeypatch):
    class Alone:
        has_threads = staticmethod(lambda: 0)

    monkeypatch.setattr(backends, "library", lambda: Alone)
    torch.set_num_threads(2)
    assert backends.native_wanted()
    torch.set_num_threads(16)
    assert not backends.native_wanted()
    with use_backend("native"):
        assert backends.native_wanted()


def test_the_choice_is_obeyed():
    k = torch.randn(3, 40)
    with use_backend("torch"):
        assert not trial.takes(k)
        assert describe()["cpu"] == "torch"
    with use_backend("native"):
        assert trial.takes(k)
        assert describe()["cpu"] == "native"
