"""Memory vectors in vocabulary space and their strongest contexts, against float64 by hand for several families."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from families import FAMILIES, VOCAB, alone, entropy, make_model, make_tokenizer, words

from infosteer.errors import ConfigError, SiteError
from infosteer.inspection import memories
from infosteer.inspection.contexts import top_contexts
from infosteer.inspection.memories import overlap, read_memories, search, surrogates, word_tokens
from infosteer.models import final_norm, locate, output_head


def by_hand(model: Any, layer: int, *, norm: bool) -> Tensor:
    """phi (M, V) in float64, from the weights and what the family's config says."""
    site, config = locate(model)[layer], model.config.get_text_config()
    weight = site.module.weight.detach().double()
    vectors = weight if type(site.module).__name__ == "Conv1D" else weight.T
    if norm:
        with torch.no_grad():
            vectors = copy.deepcopy(final_norm(model)).double()(vectors)
    kind = config.model_type
    if kind == "minicpm3":
        vectors = vectors / (config.hidden_size / config.dim_model_base)
    phi = vectors @ model.get_output_embeddings().weight.detach().double().T
    if kind == "granite":
        phi = phi / config.logits_scaling
    if kind == "cohere":
        phi = phi * config.logit_scale
    cap = {"gemma2": 2.0, "gemma3n_text": 30.0}.get(kind)
    return phi if cap is None else cap * torch.tanh(phi / cap)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("norm", [False, True], ids=["raw", "norm"])
def test_concepts_and_specificity(family: str, norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "_ELEMENTS_AT_ONCE", 7 * VOCAB)  # several chunks, the last one shorter
    model, layer = make_model(family), 1
    site = locate(model)[layer]
    found = read_memories(model, site, top=5, use_final_norm=norm)
    phi = by_hand(model, layer, norm=norm)
    p = phi.softmax(-1)
    assert found.indices.tolist() == list(range(site.width))
    torch.testing.assert_close(found.specificity, 1 - entropy(p) / math.log(VOCAB), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.probabilities.double(), p.topk(5).values, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(p.gather(1, found.tokens), p.topk(5).values, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(p.gather(1, found.lowered), p.topk(5, largest=False).values, rtol=1e-4, atol=1e-9)


def test_what_a_memory_writes_is_what_it_adds_to_the_logits() -> None:
    """Without a norm in between, k_i times the reading is the change of the logits (the linear part of the head)."""
    model = make_model("llama")
    model.model.norm = nn.Identity()
    site = locate(model)[1]
    (_, phi) = next(surrogates(model, site, [11], use_final_norm=False))
    ids = torch.tensor([[7, 8, 9]])

    def add(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        k = args[0].clone()
        k[..., 11] += 2.0
        return (k,)

    with torch.no_grad():
        before = model(ids).logits
        hook = site.module.register_forward_pre_hook(add)
        change = model(ids).logits - before
        hook.remove()
    torch.testing.assert_close(change, (2.0 * phi[0]).expand_as(change), rtol=1e-4, atol=1e-4)


def test_tied_heads_scaled_embeddings_and_half_precision() -> None:
    from tiny_models import tiny

    tied = tiny("gemma", tie_word_embeddings=True)
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    found = read_memories(tied, locate(tied)[0], top=3, use_final_norm=False)
    phi = locate(tied)[0].module.weight.detach().double().T @ tied.get_input_embeddings().weight.detach().double().T
    assert torch.equal(found.tokens, phi.topk(3).indices), "the scale of the embeddings is not the head's"
    half = copy.deepcopy(tied).bfloat16()
    for norm in (False, True):
        again = read_memories(half, locate(half)[0], top=3, use_final_norm=norm)
        wanted = by_hand(half, 0, norm=norm).softmax(-1)
        torch.testing.assert_close(again.probabilities.double(), wanted.topk(3).values, rtol=1e-3, atol=1e-6)


def test_search_over_layers() -> None:
    model, wanted = make_model("gpt2"), [17, 40]
    hits = search(model, locate(model), wanted, top=6)
    p = torch.cat([by_hand(model, layer, norm=True).softmax(-1) for layer in range(2)])
    best = p[:, wanted].sum(-1).topk(6)
    assert [hit.layer * 48 + hit.index for hit in hits] == best.indices.tolist()
    assert [hit.probability for hit in hits] == pytest.approx(best.values.tolist(), rel=1e-4)
    for hit, row in zip(hits, p[best.indices], strict=True):
        assert hit.rank == int((row > row[wanted].max()).sum())
    with pytest.raises(ConfigError, match="no tokens"):
        search(model, locate(model), [VOCAB])
    with pytest.raises(ConfigError, match="no tokens"):
        search(model, locate(model), [])


def test_stability_of_concepts() -> None:
    model = make_model("llama")
    site = locate(model)[0]
    raw, normed = (read_memories(model, site, top=8, use_final_norm=norm) for norm in (False, True))
    shares = overlap(raw, normed)
    for row in (0, 13, 47):
        both = set(raw.tokens[row].tolist()) & set(normed.tokens[row].tolist())
        assert float(shares[row]) == pytest.approx(len(both) / 8)
    assert bool((overlap(raw, raw) == 1).all())
    assert 8 / VOCAB < shares.mean() < 1, "a norm's gain moves some tokens, not all"
    with pytest.raises(ConfigError, match="different memories"):
        overlap(raw, read_memories(model, site, [1, 2], top=8))


def test_chosen_memories_and_large_k() -> None:
    model = make_model("opt")
    site = locate(model)[1]
    some, all_of_them = read_memories(model, site, [40, 3], top=4), read_memories(model, site, top=4)
    assert some.indices.tolist() == [40, 3]
    assert torch.equal(some.tokens, all_of_them.tokens[[40, 3]])
    assert read_memories(model, site, [1], top=10_000).tokens.shape == (1, VOCAB)
    for bad in ([48], [-1], [1.5], [True], []):
        with pytest.raises(ConfigError, match="no such memory"):
            read_memories(model, site, bad)
    for bad in (0, 1.5, True):
        with pytest.raises(ConfigError, match="number of tokens"):
            read_memories(model, site, top=bad)  # type: ignore[arg-type]


def test_four_bit_weights_are_refused_by_name() -> None:
    model = make_model("llama")
    site = locate(model)[1]
    site.module.weight = nn.Parameter(torch.zeros(32 * 48 // 2, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(SiteError, match=r"4- or 8-bit") as refused:
        read_memories(model, site)
    assert site.name in str(refused.value)


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = make_model("llama"), []
    monkeypatch.setattr(memories, "_ELEMENTS_AT_ONCE", 10 * output_head(model).shape[0])
    for some, phi in surrogates(model, locate(model)[0]):
        sizes.append(len(some))
        assert phi.shape == (len(some), VOCAB)
    assert sizes == [10, 10, 10, 10, 8]


def test_words_that_are_tokens() -> None:
    tokenizer = make_tokenizer()
    assert word_tokens(tokenizer, " w7 ") == [7]
    for bad, says in (("", "no word"), ("w99", "not one token"), ("w7 w8", "not one token")):
        with pytest.raises(ConfigError, match=says):
            word_tokens(tokenizer, bad)
    from infosteer.training.loading import load_tokenizer

    embedded = load_tokenizer("embedded")
    found = word_tokens(embedded, "baker")
    assert {embedded.decode([token]).strip() for token in found} == {"baker"}
    with pytest.raises(ConfigError, match=r"is M ?ar \| a|Mar"):
        word_tokens(embedded, "Maravilla")


# -- contexts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_strongest_contexts(family: str) -> None:
    model, tokenizer, layer = make_model(family), make_tokenizer(), 1
    draw = torch.Generator().manual_seed(2)
    texts = [torch.randint(5, 56, (1 + i * 5 % 17,), generator=draw).tolist() for i in range(30)]
    indices = [3, 3 + 20, 47]
    found = top_contexts(
        model, tokenizer, (words(*ids) for ids in texts), locate(model)[layer], indices, top=6, window=2
    )
    every = [(n, t, alone(model, ids)[0][layer][t]) for n, ids in enumerate(texts) for t in range(len(ids))]
    for index in indices:
        best = sorted(every, key=lambda row: -abs(float(row[2][index])))[:6]
        mine = found[index]
        sizes = [abs(float(k[index])) for _, _, k in best]  # equal tokens at equal places tie: either may come first
        assert [abs(c.coefficient) for c in mine] == pytest.approx(sizes, rel=1e-4)
        assert len({(c.text, c.position) for c in mine}) == 6
        for context in mine:
            n, t = context.text, context.position
            (own,) = [float(k[index]) for text, place, k in every if (text, place) == (n, t)]
            assert context.coefficient == pytest.approx(own, rel=1e-4)
            assert context.token == f"w{texts[n][t]}"
            assert context.before == tuple(f"w{i}" for i in texts[n][max(0, t - 2) : t])


def test_contexts_of_a_corpus_with_fewer_tokens_than_asked_for() -> None:
    model = make_model("llama")
    found = top_contexts(model, make_tokenizer(), [words(7), words(8, 9, 10)], locate(model)[0], [5], top=50)
    assert sorted((c.text, c.position) for c in found[5]) == [(0, 0), (1, 0), (1, 1), (1, 2)]
    cut = top_contexts(model, make_tokenizer(), [words(7, 8, 9, 10, 11)], locate(model)[0], [5], top=50, max_tokens=2)
    assert sorted((c.position, len(c.before)) for c in cut[5]) == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]


def test_contexts_refuse() -> None:
    model = make_model("llama")
    site = locate(model)[0]
    for indices, changes in (([], {}), ([99], {}), ([1], {"top": 0}), ([1], {"window": -1})):
        with pytest.raises(ConfigError):
            top_contexts(model, make_tokenizer(), [words(7)], site, indices, **changes)
