"""The house: imports run one way, modules stay small, committed text names no machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "infosteer"
ROOMS = [
    "errors",
    "ops",
    "models",
    "core",
    "methods",
    "lab",
    "training",
    "evaluation",
    "inspection",
    "experiments",
    "cli",
]
FILES = sorted(SOURCE.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    """Rooms that a module imports at run time (imports under TYPE_CHECKING are for people and checkers)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            names = [
                f"{node.module}.{alias.name}" if node.module == "infosteer" else str(node.module)
                for alias in node.names
            ]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("infosteer.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_downwards_only(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__", "functional"):
        return
    assert room in ROOMS, f"{room} is no room of the house"
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    assert _imports(path) <= allowed, f"{path} imports upward: {_imports(path) - allowed}"


def test_methods_do_not_import_each_other() -> None:
    for path in (SOURCE / "methods").rglob("*.py"):
        parts = path.relative_to(SOURCE / "methods").parts
        if len(parts) < 3:
            continue
        own = f"infosteer.methods.{parts[0]}.{parts[1]}"
        others = re.findall(r"infosteer\.methods\.\w+\.\w+", path.read_text(encoding="utf-8"))
        assert set(others) <= {own}, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_modules_stay_small_and_ascii(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, "a reader should see one thing in a module"
    assert text.isascii(), path


def test_no_prints_outside_the_command_line() -> None:
    for path in FILES:
        if "cli" in path.relative_to(SOURCE).parts or path.name == "__main__.py":
            continue
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), path


def test_importing_the_package_brings_in_no_torch() -> None:
    import sys

    code = (
        "import sys, infosteer; assert 'torch' not in sys.modules; infosteer.errors; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names() -> None:
    import infosteer

    for name in infosteer.__all__:
        assert getattr(infosteer, name) is not None
    assert issubclass(infosteer.errors.InfoSteerError, ValueError)
    with pytest.raises(AttributeError, match="no attribute 'stear'"):
        _ = infosteer.stear


def test_error_pages_exist() -> None:
    from infosteer import errors

    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.InfoSteerError)
    ]
    assert len(kinds) >= 9
    for kind in kinds:
        page = ROOT / "docs" / "errors" / f"{kind.page}.md"
        assert page.is_file(), page
        text = page.read_text(encoding="utf-8").lower()
        assert "cause" in text, page
        assert "fix" in text or "what to do" in text, page


def test_errors_say_everything_and_survive_pickling() -> None:
    import pickle

    from infosteer.errors import DataError

    error = DataError("row without a prompt", where="rows.jsonl:7", got={"text": 1}, expected="prompt", fix="add it")
    for part in ("row without a prompt", "rows.jsonl:7", "prompt", "add it", "docs/errors/data.md"):
        assert part in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DataError
    assert str(again) == str(error)
