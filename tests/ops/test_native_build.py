"""How native code for rows is compiled, kept, proven, and done without."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys

import pytest
import torch

from infosteer.errors import ConfigError
from infosteer.ops import backends
from infosteer.ops.backends import describe, use_backend
from infosteer.ops.intervene import intervene
from infosteer.ops.native import build, trial
from infosteer.ops.native import rows as native

from . import references

pytestmark = pytest.mark.skipif(isinstance(build.native_code(), str), reason=f"no native code: {build.native_code()}")


@pytest.fixture
def _fresh(monkeypatch):
    """A process that has not looked for native code yet, and forgets afterwards what it found."""
    monkeypatch.setattr(backends, "_environment", None)
    monkeypatch.setattr(backends, "_override", None)
    monkeypatch.setattr(backends, "_tried", {})
    build.native_code.cache_clear()
    yield
    build.native_code.cache_clear()


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
        assert isinstance(build.native_code(), str)
        assert "made no library" in build.native_code()
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
    assert isinstance(build.native_code(), ctypes.CDLL)
    assert trial.takes(torch.randn(3, 40))


@pytest.mark.usefixtures("_fresh")
def test_what_the_compiler_says_may_be_in_any_encoding(monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_bytes(b"#!/bin/sh\necho '\xe9chec' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert "chec" in build.native_code()


@pytest.mark.usefixtures("_fresh")
def test_a_compiler_may_have_arguments_or_not_be_there(monkeypatch, tmp_path, caplog):
    real = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", f"env {real}")
    assert isinstance(build.native_code(), ctypes.CDLL)
    build.native_code.cache_clear()
    monkeypatch.setenv("CC", "no-such-compiler -O3")
    with caplog.at_level(logging.WARNING):
        assert isinstance(build.native_code(), ctypes.CDLL)
    assert "no-such-compiler" in caplog.text


@pytest.mark.usefixtures("_fresh")
def test_a_library_that_others_may_write_is_not_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert isinstance(build.native_code(), ctypes.CDLL)
    (kept,) = (tmp_path / "infosteer").glob("*.so")
    for place in (kept, tmp_path / "infosteer"):
        place.chmod(0o777)
        build.native_code.cache_clear()
        assert build.native_code()._name != str(kept) or not kept.stat().st_mode & 0o022
        place.chmod(0o700)


@pytest.mark.usefixtures("_fresh")
def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert isinstance(build.native_code(), ctypes.CDLL)


@pytest.mark.usefixtures("_fresh")
def test_a_library_that_does_not_load_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert isinstance(build.native_code(), ctypes.CDLL)
    (file,) = (tmp_path / "infosteer").glob("*.so")
    code = "from infosteer.ops.native.build import native_code; print(type(native_code()).__name__)"
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

    monkeypatch.setattr(backends, "native_code", lambda: Alone)
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
