"""pass@k: the chance that at least one of k samples is right, without bias from n >= k samples."""

from __future__ import annotations

from infosteer.errors import ConfigError


def pass_at_k(n: int, c: int, k: int) -> float:
    """``1 - C(n - c, k) / C(n, k)``, as the product ``1 - prod_{i=n-c+1}^{n} (1 - k / i)``, which cannot overflow.

    Args:
        n: samples of a problem.
        c: right ones among them.
        k: samples that one may draw.

    Source: Chen et al. 2021, Evaluating large language models trained on code, eq. 1.

    Raises:
        ConfigError: unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ConfigError(
            "pass@k needs 0 <= c <= n and 1 <= k <= n.", where="pass_at_k", got=f"n = {n}, c = {c}, k = {k}"
        )
    if n - c < k:
        return 1.0
    missed = 1.0
    for i in range(n - c + 1, n + 1):
        missed *= 1 - k / i
    return 1 - missed
