"""Numbers keyed by text: their law, and that they do not depend on batch, padding or packing."""

from __future__ import annotations

import torch

from infosteer.ops.counter import mix, normal, row_keys, uniform


def splitmix(value: int) -> int:
    """The finaliser of splitmix64 on Python's integers."""
    bits = (1 << 64) - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & bits
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & bits
    return value ^ (value >> 31)


def test_mix_is_splitmix() -> None:
    values = [0, 1, 2, 12345678901234567, (1 << 63) - 1, (1 << 64) - 1, 1 << 63]
    signed = torch.tensor([v - (1 << 64) if v >> 63 else v for v in values])
    wanted = [splitmix(v) for v in values]
    assert [int(v) % (1 << 64) for v in mix(signed)] == wanted


def test_uniform_law_and_independence_of_columns_rows_and_seeds() -> None:
    keys = mix(torch.arange(2000))
    u = uniform(keys, 50)
    assert u.min() > 0
    assert u.max() < 1
    counts = torch.histc(u, bins=20, min=0, max=1)
    expected = u.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 50  # chi square, 19 degrees: p about 1e-4
    assert abs(torch.corrcoef(u.T)[0, 1:]).max() < 0.1
    assert abs(torch.corrcoef(u[:50])[0, 1:]).max() < 0.65
    assert abs(torch.corrcoef(torch.stack([u.flatten(), uniform(keys, 50, seed=1).flatten()]))[0, 1]) < 0.02
    z = normal(keys, 50)
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs((z**4).mean() - 3) < 0.1


def test_keys_follow_the_text_and_nothing_else() -> None:
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 8]])
    keys = row_keys(ids).view(2, 4)
    assert torch.equal(keys[0, :2], keys[1, :2])
    assert keys[0, 2] != keys[1, 2]
    assert keys[0, 3] != keys[1, 3], "a key knows the whole prefix"
    assert len(set(keys.flatten().tolist())) == 6
    swapped = row_keys(torch.tensor([[6, 5, 7, 8]]))
    assert swapped[1] != keys[0, 1], "and its order"
    for left, right in ((2, 0), (0, 3), (1, 1)):
        padded = torch.nn.functional.pad(ids, (left, right), value=5)
        mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        found = row_keys(padded, mask).view(2, -1)[:, left : left + 4]
        assert torch.equal(found, keys)
    assert torch.equal(row_keys(ids.flip(0)).view(2, 4), keys.flip(0))


def test_packed_sequences_have_the_keys_of_their_own() -> None:
    first, second = torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9, 5, 6]])
    packed = torch.cat([first, second], -1)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    assert torch.equal(row_keys(packed, positions=positions), torch.cat([row_keys(first), row_keys(second)]))
    assert torch.equal(row_keys(first, positions=torch.tensor([[0, 1, 2]])), row_keys(first))
