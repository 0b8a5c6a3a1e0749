"""Activation checkpointing of transformers models, by the name that the version has."""


def recompute_activations(model) -> None:
    """Lets a transformers model form its activations anew in the backward pass.

    Args:
        model: A `PreTrainedModel`.
    """
    # Renamed in 5.21 with the old name as an alias that warns; Python 3.10 ends at 5.20.
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
