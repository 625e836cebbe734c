"""What is shipped and what is pinned: the wheel's contents, the lock, the licence, and the script that CI runs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
import types
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "infosteer"
LEFT_OUT = {"__pycache__", ".DS_Store"}


# -- the wheel ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(folder),
    ]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (made,) = folder.glob("*.whl")
    return made


def tracked(folder: str) -> set[str]:
    """Files below a folder of the repository, as git would ship them; without git, all of them."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        return {name for name in listed if (ROOT / name).is_file()}
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and not LEFT_OUT & set(path.parts))
    return {str(path.relative_to(ROOT)) for path in files}


def test_the_wheel_carries_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {name.removeprefix("src/") for name in tracked("src")}
    expected |= {f"infosteer/{name}" for name in tracked("recipes") if not name.endswith(".gitkeep")}
    shipped = {name for name in names if name.startswith("infosteer/") and not name.endswith(".gitkeep")}
    assert expected <= shipped, sorted(expected - shipped)[:5]
    assert shipped <= expected, sorted(shipped - expected)[:5]
    assert {name.split("/")[0] for name in names} == {"infosteer", f"infosteer-{wheel.name.split('-')[1]}.dist-info"}

    assert "infosteer/py.typed" in shipped
    assert "infosteer/recipes/demo.yaml" in shipped
    for folder in (path.parent for path in SOURCE.glob("methods/*/*/method.py")):
        inside = f"infosteer/{folder.relative_to(SOURCE).as_posix()}"
        assert {f"{inside}/card.md", f"{inside}/recipe.yaml"} <= shipped
    for folder in ("base", "reasoning_base"):
        if (SOURCE / "lab" / folder).is_dir():
            base = {Path(name).name for name in shipped if name.startswith(f"infosteer/lab/{folder}/")}
            assert {"config.json", "model.safetensors", "tokenizer.json"} <= base
    assert not [name for name in shipped if "test" in Path(name).name]


def test_the_wheel_is_small(wheel: Path) -> None:
    """The embedded bases may take 12 and 4.2 MB; code and texts take little."""
    sizes = {"/lab/base/": 0, "/lab/reasoning_base/": 0}
    for entry in zipfile.ZipFile(wheel).infolist():
        for folder in sizes:
            sizes[folder] += entry.file_size if folder in entry.filename else 0
    assert sizes["/lab/base/"] <= 12e6
    assert sizes["/lab/reasoning_base/"] <= 4.2e6
    assert wheel.stat().st_size <= sum(sizes.values()) + 1e6


def test_the_wheel_works_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    """Recipes, cards and the command's entry are found in an installed package."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        cwd = tmp_path / "elsewhere"
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = Path(run("-c", "import infosteer; print(infosteer.__file__)").strip())
    assert where.is_relative_to(tmp_path / "installed")
    listed = {row["name"] for row in json.loads(run("-m", "infosteer", "ls", "--recipes", "--json"))}
    files = [Path(name).relative_to("recipes") for name in tracked("recipes") if name.endswith(".yaml")]
    assert listed == {file.with_suffix("").as_posix() for file in files if not file.name.startswith("_")}
    assert "Key lift" in run("-m", "infosteer", "show", "key_lift")
    assert "Pitfalls" in run("-m", "infosteer", "show", "boolq")


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    facts = HeaderParser().parsestr(archive.read(name).decode())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert facts["Name"] == "infosteer"
    assert facts["Requires-Python"] == ">=3.11"
    assert facts["License-Expression"] == "Apache-2.0"
    assert Version(facts["Version"]) == Version(project["version"])
    assert any(entry.endswith("licenses/LICENSE") for entry in archive.namelist())
    entries = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "infosteer = infosteer.cli.main:main" in entries


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    for part in ("Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS", "APPENDIX"):
        assert part in text
    assert len(text.split()) > 1500


# -- the lock -------------------------------------------------------------------------------------------------------


def load_lock_script() -> types.ModuleType:
    return load_script("lock")


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "every line is name==version"
    return {canonicalize_name(name): version for name, version in pairs}


def test_pins_fit_the_ranges_and_carry_no_local_tag() -> None:
    pinned = pins()
    assert all(Version(version).local is None for version in pinned.values())
    for requirement in load_lock_script().wanted():
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
    assert "hatchling" in pinned, "the editable install must fetch no build environment"
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert all(Requirement(line).specifier.contains(pinned[Requirement(line).name]) for line in needed)


def test_pins_are_what_is_tested_and_complete() -> None:
    """What runs these tests is what the lock names. Another torch build may bring packages of its own."""
    pinned = pins()
    for name, version in pinned.items():
        assert Version(importlib.metadata.version(name)).public == version, name
    closed = set(load_lock_script().closure(load_lock_script().wanted()))
    bundled = {name for name in closed - set(pinned) if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert closed - bundled == set(pinned), "run make lock"


# -- make -----------------------------------------------------------------------------------------------------------


def copied_makefile(folder: Path) -> Path:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # These tests run under make themselves: its flags and variables must not leak in.
    outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS", "WORKERS", "PYTHON", "TORCH_INDEX_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    old = script(tmp_path / "python3.10", '[ "$1" = --version ] && echo Python 3.10.2 && exit 0; exit 1')
    done = make(copied_makefile(tmp_path), "setup", f"PYTHON={old}")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "is Python 3.10.2" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_sets_up_once_and_torch_first(tmp_path: Path) -> None:
    """With a python that only notes what it is asked for: every step once, again only when the pins change."""
    notes = tmp_path / "notes"
    fake = script(
        tmp_path / "python",
        f'echo "$@" >> {notes}\n[ "$2" = venv ] && mkdir -p .venv/bin && cp "$0" .venv/bin/python\nexit 0',
    )
    folder = copied_makefile(tmp_path)
    settings = [f"PYTHON={fake}", "TORCH_INDEX_URL=https://example.org/whl"]
    assert make(folder, "setup", *settings).returncode == 0
    asked = notes.read_text().splitlines()
    installs = [line.partition(" install ")[2] for line in asked if " install " in line]
    assert installs == [
        f"--only-binary :all: --index-url https://example.org/whl torch=={pins()['torch']}",
        "--only-binary :all: --no-binary rouge-score,sqlitedict,word2number -r requirements.lock",
        "--no-build-isolation --no-deps --editable .",
    ]
    assert asked.index("-m venv --clear .venv") < min(i for i, line in enumerate(asked) if " install " in line)
    assert make(folder, "test", *settings).returncode == 0
    later = notes.read_text().splitlines()[len(asked) :]
    assert later == ["-m pytest -n 2 -m not slow and not browser"]
    os.utime(folder / "requirements.lock", (4e9, 4e9))
    assert make(folder, "setup", *settings).returncode == 0
    assert sum(" install " in line for line in notes.read_text().splitlines()) == 6


# -- the script of CI -----------------------------------------------------------------------------------------------


def run_ci(folder: Path, make_does: str) -> subprocess.CompletedProcess[str]:
    """The script in a folder of its own, with a ``make`` that does as the shell text says."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    script(folder / "bin" / "make", make_does)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run([folder / ".ci" / "run"], env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("closing", "make_code", "code"),
    [
        ("12 passed, 3 skipped in 4.50s", 0, 0),
        ("===== 12 passed in 64.50s (0:01:04) =====", 0, 0),
        ("1 failed, 11 passed in 4.50s", 2, 2),
        ("3 skipped in 0.10s", 0, 1),
        ("5 deselected in 0.20s", 2, 2),
    ],
)
def test_ci_passes_only_when_tests_passed(closing: str, make_code: int, code: int, tmp_path: Path) -> None:
    """And it ends with pytest's closing line, whatever make says after it."""
    done = run_ci(tmp_path, f'[ "$1" = lint ] || {{ echo ...; echo "{closing}"; echo noise; exit {make_code}; }}')
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == closing


@pytest.mark.parametrize("output", ["no tests ran in 0.01s", "nothing at all"])
def test_ci_fails_when_nothing_was_tested(output: str, tmp_path: Path) -> None:
    assert run_ci(tmp_path, f'[ "$1" = lint ] || echo "{output}"').returncode == 1


def test_ci_fails_when_the_browser_tests_fail(tmp_path: Path) -> None:
    done = run_ci(tmp_path, '[ "$1" = test-browser ] && exit 2; echo "12 passed in 1.00s"')
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == ["the browser tests failed", "12 passed in 1.00s"]


def test_ci_fails_when_lint_fails(tmp_path: Path) -> None:
    done = run_ci(tmp_path, '[ "$1" = lint ] && exit 2; echo "1 passed in 1.00s"')
    assert done.returncode == 2
    assert "passed" not in done.stdout


def test_shipped_texts_are_plain() -> None:
    """Recipes are safe YAML, and sidecars of data files (JSON) parse."""
    for name in tracked("recipes") | {name for name in tracked("src") if name.endswith(".yaml")}:
        if name.endswith(".yaml"):
            assert isinstance(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")), dict), name
    for name in tracked("src"):
        if name.endswith(".json"):
            json.loads((ROOT / name).read_text(encoding="utf-8"))
