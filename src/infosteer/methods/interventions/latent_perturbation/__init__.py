"""LAPT: training with noise in what layers put out, towards the unchanged answers."""

from infosteer.methods.interventions.latent_perturbation.method import LatentPerturbation, perturb_states

__all__ = ["LatentPerturbation", "perturb_states"]
