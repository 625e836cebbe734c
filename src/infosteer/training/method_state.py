"""What methods hold besides model and optimizer, kept in trainer checkpoints, so that a resume goes on from it."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from infosteer.core.session import Session

NAME = "infosteer-state.safetensors"


def save_method_state(folder: str | Path, session: Session) -> None:
    """Writes the state of a session's methods into a checkpoint's folder; nothing where there is none."""
    tensors = {
        f"{index}/{name}": tensor.detach().cpu().contiguous()
        for index, handle in session.applied.handles.items()
        for name, tensor in handle.state().items()
    }
    if tensors:
        save_file(tensors, Path(folder) / NAME)


def load_method_state(folder: str | Path, session: Session) -> None:
    """Gives methods back what a checkpoint's folder holds of them; nothing where it holds nothing."""
    path = Path(folder) / NAME
    if not path.is_file():
        return
    tensors = load_file(path)
    for index, handle in session.applied.handles.items():
        own = {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{index}/")}
        if own:
            handle.load(own)
