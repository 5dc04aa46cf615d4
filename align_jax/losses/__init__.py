"""Losses of image and text embeddings, as pure functions, in forms that are equal in value and gradient."""

from align_jax.losses.contrastive import LOSS_FORMS, ContrastiveLoss, LossForm, contrastive_loss, sigmoid_loss

__all__ = ["LOSS_FORMS", "ContrastiveLoss", "LossForm", "contrastive_loss", "sigmoid_loss"]
