"""Text for pretraining: general English from a folder, a held-out part of it, and rows packed from biographies."""

from __future__ import annotations

import hashlib
import logging
import lzma
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from infosteer.errors import DataError
from infosteer.lab.facts import World, biography_at
from infosteer.lab.tokenizer import END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)
HELD_OUT_SHARE = 32  # one document in so many is never trained on


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneralText:
    """Documents of general English, split by their hash into a training and a held-out part."""

    train: list[str]
    held_out: list[str]


def is_held_out(document: str) -> bool:
    """Whether a document belongs to the held-out part, by its own text alone (so in any order and any selection)."""
    return hashlib.sha256(document.strip().encode()).digest()[0] % HELD_OUT_SHARE == 0


def read_general_text(
    folder: str | Path | None, files: Sequence[str], *, seed: int, megabytes_per_file: float
) -> GeneralText:
    """Read documents (xz or plain text, separated by lines ``<|endoftext|>``), at most so many megabytes of each file.

    A missing folder is no error: it is logged, and the caller trains on lab text alone.

    Raises:
        DataError: the folder exists but a named file is missing, unreadable or empty.
    """
    if not folder or not Path(folder).is_dir():
        logger.warning(
            "general text folder %s does not exist: training on lab text alone; the model will know no other English",
            folder,
        )
        return GeneralText(train=[], held_out=[])
    train: list[str] = []
    held_out: list[str] = []
    for name in files:
        documents = _read_documents(Path(folder) / name)
        random.Random(f"{seed}/{name}").shuffle(documents)
        size = 0.0
        for document in documents:
            if size > megabytes_per_file * 1e6:
                break
            size += len(document.encode())
            (held_out if is_held_out(document) else train).append(document)
    random.Random(seed).shuffle(train)
    return GeneralText(train=train, held_out=held_out)


def _read_documents(path: Path) -> list[str]:
    try:
        raw = path.read_bytes()
        text = (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8")
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(
            "A file of general text cannot be read.",
            where=path.name,
            got=f"{type(error).__name__}: {error}",
            expected="UTF-8 text, plain or xz, with documents separated by lines <|endoftext|>",
            fix="mend data.general_files, or leave general_text empty to train on lab text alone",
        ) from error
    documents = [document.strip() for document in text.split(f"{END}\n")]
    documents = [document for document in (d.removesuffix(END).strip() for d in documents) if document]
    if not documents:
        raise DataError("A file of general text holds no document.", where=path.name, expected="at least one")
    return documents


def encode_stream(documents: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Encode documents into one stream of token ids, each document closed by the end token."""
    end = tokenizer.eos_token_id
    pieces: list[np.ndarray] = []
    for start in range(0, len(documents), 64):
        for encoding in tokenizer.backend_tokenizer.encode_batch(list(documents[start : start + 64])):
            pieces.append(np.asarray([*encoding.ids, end], dtype=np.uint16))
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.uint16)


class LabRows:
    """Rows of token ids packed from the endless text of biographies; every row begins with the first word of one.

    ``position`` is the index of the next biography and the whole state: set it to resume.
    """

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerFast, *, seed: int, position: int = 0) -> None:
        self.world, self.seed, self.position = world, seed, position
        self._encode = tokenizer.backend_tokenizer.encode
        self._end = int(tokenizer.eos_token_id)

    def take(self, rows: int, length: int) -> np.ndarray:
        """The next rows, each of ``length`` tokens; what a row's last biography has beyond it is dropped."""
        taken = np.empty((rows, length), dtype=np.int64)
        for row in taken:
            ids: list[int] = []
            while len(ids) < length:
                ids += [*self._encode(biography_at(self.world, self.position, self.seed)).ids, self._end]
                self.position += 1
            row[:] = ids[:length]
        return taken


def general_rows(stream: np.ndarray, rows: int, length: int, *, seed: int, step: int) -> np.ndarray:
    """Rows cut from the stream of general text at places drawn by seed and step (stateless: nothing to resume)."""
    draw = np.random.default_rng([seed, step])
    starts = draw.integers(0, len(stream) - length + 1, size=rows)
    return np.stack([stream[start : start + length] for start in starts]).astype(np.int64)
