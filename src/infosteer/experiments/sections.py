"""The sections of a recipe, one dataclass each; that of ``train`` is in ``training.settings``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from infosteer.training.settings import setting

_FORMAT_HELP = (
    "prompt_completion, messages, instruction_output, llm_adapters, or text; null finds it from the columns when they "
    "leave no doubt"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSettings:
    """The training rows."""

    train: str | tuple[str, ...] = field(
        metadata={"help": "a JSONL, JSONL.gz or Parquet file, a folder, a hub id, or `lab:facts`; or a list of such"}
    )
    format: str | None = setting(None, _FORMAT_HELP)
    template: str = setting(
        "sections", "wording of instruction rows: sections, alpaca, plain, or a text with {instruction}"
    )
    fields: dict[str, str] = field(
        default_factory=dict, metadata={"help": "our column name -> the source's, e.g. `{prompt: question}`"}
    )
    split: str | None = setting(None, "split of a folder or hub data set")
    limit: int | None = setting(None, "use only this many good rows of each source", minimum=1)
    skip_bad_rows: bool = setting(False, "count rows without the needed fields instead of stopping at the first")
    options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of a generated source, e.g. `people: 40` for lab:facts"}
    )
    calibration: str | None = setting(
        None,
        "source of texts for methods that ask which memories are in use, e.g. `lab:facts/texts`; the same texts for "
        "every arm and seed",
    )
    calibration_limit: int = setting(256, "use only this many of these texts", minimum=1)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources, one or many."""
        return (self.train,) if isinstance(self.train, str) else self.train


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateSettings:
    """One evaluation set. A plain string in the recipe is short for ``{source: STRING}``."""

    source: str = field(metadata={"help": "as data.train, or a lab set such as `lab:facts/new_people`"})
    format: str | None = setting(None, "as data.format")
    template: str = setting("sections", "as data.template")
    fields: dict[str, str] = field(default_factory=dict, metadata={"help": "as data.fields"})
    split: str | None = setting(None, "split of a folder or hub data set")
    limit: int | None = setting(None, "use only this many good rows", minimum=1)
    batch_size: int = setting(64, "rows per forward", minimum=1)
    scoring: str | None = setting(
        None, "exact_match, number, option, phrase, process or text; null takes what the rows' format stands for"
    )
    score_options: bool = setting(
        True, "compare the likelihoods of the options too; false saves the time where answers are matched"
    )
    max_new_tokens: int | None = setting(None, "longest answer in tokens; null leaves it to the scoring", minimum=1)
    stop: str | tuple[str, ...] | None = setting(None, "text, or texts, that end an answer")
    skip_bad_rows: bool = setting(False, "count rows without the needed fields instead of stopping at the first")
    probes: tuple[str, ...] = setting(
        (),
        "probes that read the set's texts with every model, e.g. `information_flux`, or that ask its questions, e.g. "
        "`demo_position`; measures `<probe>_<metric>`",
    )
    options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of the source, e.g. `revision` of a hub data set"}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way of training. A list in the recipe is short for ``{methods: LIST}``."""

    methods: tuple[dict[str, Any], ...] = field(
        default=(),
        metadata={"help": "the methods, each a mapping with the key `method`; none is plain training", "short": True},
    )
    train: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "keys of `train` that this arm has otherwise than the recipe"}
    )
    data: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "keys of `data` that this arm has otherwise than the recipe"}
    )

    @property
    def is_plain(self) -> bool:
        """Whether it is trained as the recipe says, with no method."""
        return not (self.methods or self.train or self.data)
