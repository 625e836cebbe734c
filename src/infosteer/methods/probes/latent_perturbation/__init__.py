"""ASA and ASA_grad: how robust answers are to perturbed hidden states."""

from infosteer.methods.probes.latent_perturbation.method import Attack, LatentPerturbationProbe
from infosteer.methods.probes.latent_perturbation.rates import attack_rates

__all__ = ["Attack", "LatentPerturbationProbe", "attack_rates"]
