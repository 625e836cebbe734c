"""What a training costs before it is begun: parameters, floating-point operations, memory, and hours on a card.

Symbols: L layers, D hidden size, M FFN width, A = heads * head_dim, V vocabulary, P parameters; B rows of T tokens
(padded) in a forward, N = B * T, of which n carry loss; w bytes of a weight.

Counted, each checked by a test against torch:

- parameters: exactly those of Llama, Qwen2 and Gemma 2;
- operations, 2 for a multiplication with an addition: forward 2 W N with W the weights of the layers' matrices,
  attention scores 4 L A B T^2, backward twice the forward, checkpointing nearly one forward more (6 W N becomes up to
  8 W N); the head is done for the n rows alone, forward, again in backward, and two gradients: 8 D V n;
- tensors kept for the backward pass: ``saved_floats``.

Assumed, and to be doubted: ``UTILISATION``, the time an eager operation takes to start, the bytes that move in a step.
A step takes the longest of arithmetic, memory traffic and starting its operations. No GPU has measured the hours: hold
them to be right within a factor of two or three. Not counted: loading, saving, reading data, and what a method adds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from infosteer.experiments.known import Shape

GIB = 2**30
UTILISATION = 0.4  # share of a card's dense bf16 peak that matrix products reach in eager PyTorch
START_S = 6e-6  # to start one operation from Python
OPERATIONS = {"forward": 60, "train": 200}  # started in a layer: a forward; forward, recompute and backward
CONTEXT = 1.5 * GIB  # CUDA's context, workspaces of kernels, rounding of the allocator
TOKEN_CHUNK, VOCABULARY_CHUNK = 4096, 32_768  # TRL's tile of logits


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A GPU by its data sheet: dense bf16 peak (operations a second), memory (bytes), bandwidth (bytes a second)."""

    name: str
    peak: float
    memory: float
    bandwidth: float


CARDS = (
    Card(name="A6000 48 GB", peak=155e12, memory=47.5 * GIB, bandwidth=768e9),
    Card(name="A100 80 GB", peak=312e12, memory=79 * GIB, bandwidth=2039e9),
    Card(name="H100 80 GB", peak=989e12, memory=79 * GIB, bandwidth=3350e9),
    Card(name="H200 141 GB", peak=989e12, memory=139 * GIB, bandwidth=4800e9),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What one training does: settings of the trainer, and rows as the tokenizer cuts them.

    Attributes:
        weight_bytes: w, 4 (float32, computed in bf16) or 2 (bfloat16).
        batch: B.
        accumulation: forwards in an optimiser step.
        checkpointing: whether activations are computed again in the backward pass.
        forwards: how many forwards in all.
        tokens: T, the mean length of a padded batch.
        longest: T of the longest batch.
        labelled: tokens of a row that carry loss, the mean.
        evaluation: one entry a set and evaluation: rows, mean tokens of a prompt, options, tokens decoded, batch size.
    """

    weight_bytes: int
    batch: int
    accumulation: int
    checkpointing: bool
    forwards: int
    tokens: float
    longest: int
    labelled: float
    evaluation: tuple[Asked, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One evaluation set: rows, mean tokens of a prompt, tokens of all options together, tokens decoded, batch size."""

    rows: int
    prompt: float
    options: float
    decoded: int
    batch: int


def matrix_weights(shape: Shape) -> int:
    """W: weights of the layers' matrices, without norms, biases, embedding and head."""
    attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
    return shape.layers * (attention + 3 * shape.hidden * shape.width)


def parameters(shape: Shape) -> int:
    """P: all trained weights; a tied head counts once."""
    vectors = shape.norms * shape.hidden
    if shape.qkv_bias:
        vectors += shape.head_dim * (shape.heads + 2 * shape.kv_heads)
    tables = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    return matrix_weights(shape) + shape.layers * vectors + tables + shape.hidden


def layer_operations(shape: Shape, batch: int, tokens: float) -> float:
    """Operations of all layers in one forward of B rows of T tokens."""
    scores = 4 * shape.layers * shape.heads * shape.head_dim * batch * tokens**2
    return 2 * matrix_weights(shape) * batch * tokens + scores


def train_operations(
    shape: Shape, *, batch: int, tokens: float, labelled: float, checkpointing: bool, tiled_head: bool = True
) -> float:
    """Operations of one forward and backward.

    Args:
        labelled: n, the rows that the head is done for.
        tiled_head: the head's forward is done again in backward, as TRL's is; else it is kept.
    """
    head, forward = 2 * shape.hidden * shape.vocabulary * labelled, layer_operations(shape, batch, tokens)
    again = 0.0
    if checkpointing:
        again = forward
        if shape.norms == 2:  # nothing in the layer comes after the down projection, so it is not done again
            again -= 2 * shape.layers * batch * tokens * shape.hidden * shape.width
    return 3 * forward + again + head * (4 if tiled_head else 3)


def saved_floats(shape: Shape, tokens: int) -> float:
    """Numbers that one layer keeps for its backward pass, for each of its N tokens.

    6 D + 4 A + 4 M + heads + T + 2 where attention is one kernel (a padded batch repeats keys and values, and the T is
    its mask); with capped scores (Gemma 2) 10 D + 4 A + 4 M + 2 heads T + 4, since the scores are kept twice.
    """
    common = 4 * shape.heads * shape.head_dim + 4 * shape.width
    if shape.capped:
        return common + 10 * shape.hidden + 2 * shape.heads * tokens + 4
    return common + 6 * shape.hidden + shape.heads + tokens + 2


def memory(shape: Shape, work: Work) -> dict[str, float]:
    """Bytes on the card at the peak of a training with AdamW, by what they are for.

    ``copies``: with float32 weights, autocast's bfloat16 copies, kept until the forward ends. ``activations``: with
    checkpointing the input of every layer (4 N D; 2 N D with bfloat16 weights) and one layer's tensors with their
    gradients. ``logits``: one tile and its gradient, float32.
    """
    weights, rows = parameters(shape) * float(work.weight_bytes), work.batch * work.longest
    kept = rows * saved_floats(shape, work.longest) * (4 if work.weight_bytes == 4 else 2)
    inputs = rows * shape.hidden * work.weight_bytes * shape.layers
    labelled = min(TOKEN_CHUNK, rows)
    return {
        "weights": weights,
        "gradients": weights,
        "optimiser": 2 * weights,
        "copies": 2.0 * matrix_weights(shape) if work.weight_bytes == 4 else 0.0,
        "activations": inputs + 2 * kept if work.checkpointing else shape.layers * kept,
        "logits": 2 * 4.0 * labelled * min(VOCABULARY_CHUNK, shape.vocabulary),
        "context": float(CONTEXT),
    }


def offloaded(shape: Shape, work: Work) -> tuple[float, float]:
    """Bytes on the card and in main memory with DeepSpeed ZeRO-2 on one card, optimiser offloaded.

    bfloat16 weights and gradients stay on the card (4 P), float32 weights and both moments go to main memory (12 P),
    with the gradients that the optimiser reads (2 P).
    """
    own = memory(shape, replace(work, weight_bytes=2))
    return sum(own.values()) - own["optimiser"], 14.0 * parameters(shape)


def seconds(shape: Shape, work: Work, card: Card) -> tuple[float, float]:
    """Seconds of training and of evaluation on a card."""
    count, mixed = parameters(shape), work.weight_bytes == 4
    arithmetic = train_operations(
        shape,
        batch=work.batch,
        tokens=work.tokens,
        labelled=work.labelled * work.batch,
        checkpointing=work.checkpointing,
    )
    passes = 2 if work.checkpointing else 1  # forwards; each reads the weights, or reads, casts and reads them
    moved = count * (passes * (8 if mixed else 2) + (14 if mixed else 10))
    starts = shape.layers * OPERATIONS["train"] * START_S
    forward = max(arithmetic / (card.peak * UTILISATION), moved / card.bandwidth, starts)
    step = 10 * count * work.weight_bytes / card.bandwidth  # AdamW reads and writes weights, gradients and moments
    training = work.forwards * (forward + step / work.accumulation)
    return training, sum(_asked(shape, one, card, mixed) for one in work.evaluation)


def _asked(shape: Shape, asked: Asked, card: Card, mixed: bool) -> float:
    """Prompts are read twice, once for the likelihoods of the options and once to decode."""
    tokens = asked.rows * (2 * asked.prompt + asked.options)
    reading = layer_operations(shape, 1, 1) * tokens / (card.peak * UTILISATION)
    steps = -(-asked.rows // asked.batch) * asked.decoded
    traffic = parameters(shape) * (8 if mixed else 2) / card.bandwidth
    return reading + steps * max(traffic, shape.layers * OPERATIONS["forward"] * START_S)
