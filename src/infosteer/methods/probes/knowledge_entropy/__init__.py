"""Knowledge entropy: the entropy of average memory use over a text, beside the mean entropy of single tokens."""

from infosteer.methods.probes.knowledge_entropy.method import (
    KnowledgeEntropy,
    KnowledgeEntropyObserver,
    MemoryUse,
    knowledge_entropy,
)

__all__ = ["KnowledgeEntropy", "KnowledgeEntropyObserver", "MemoryUse", "knowledge_entropy"]
