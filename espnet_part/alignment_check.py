"""Whether the keys of `alignment` go together, and with the phase; every error names its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espnet_part.prompt import SPEECH_TASKS

if TYPE_CHECKING:
    from espnet_part.config import AlignmentConfig, Config

ADAPTIVE_ONLY = {"adapt_interval": 0, "max_layers": 2, "adapt_rows": 200}


def check_alignment(config: Config, trained: list[str]) -> None:
    """Raises ValueError where values do not go together.

    Args:
        config: The phase.
        trained: The parts that train in it.
    """
    options = config.alignment
    if options is None:
        return
    if not set(config.tasks) & set(SPEECH_TASKS):
        raise ValueError(
            f"alignment: phase {config.phase} trains on {config.tasks}, which have no speech to "
            f"align; add {' or '.join(SPEECH_TASKS)} to tasks, or set alignment: null"
        )
    if not options.detach_text and "llm" not in trained:
        raise ValueError(
            "alignment.detach_text: false, but the LLM is frozen (trainable.llm: none), so that "
            "the text side cannot move; set it to true"
        )
    _check_layers(options)
    if options.layers == "adaptive" and not config.valid:
        raise ValueError(
            "alignment.layers: adaptive chooses by retrieval on dev rows, but valid is empty; give "
            "a dev set, or a list of layers such as [0, 1]"
        )
    _check_numbers(options)


def check_depth(layers: list[int], depth: int) -> None:
    """Raises ValueError for a layer that an LLM of `depth` blocks does not have."""
    if layers and max(layers) > depth:
        raise ValueError(
            f"alignment.layers: found layer {max(layers)}, but this LLM has layers 0 (its "
            f"embeddings) to {depth}"
        )


def _check_layers(options: AlignmentConfig) -> None:
    layers = options.layers
    if isinstance(layers, str):
        if layers != "adaptive":
            raise ValueError(
                f"alignment.layers: found {layers!r}, expected adaptive, or a list such as [0, 1]"
            )
        return
    if not layers or min(layers) < 0 or len(set(layers)) != len(layers):
        raise ValueError(
            f"alignment.layers: found {layers}, expected different layers from 0 (the embeddings) "
            "on, such as [0, 1]"
        )
    for key, default in ADAPTIVE_ONLY.items():
        if getattr(options, key) != default:
            raise ValueError(
                f"alignment.{key}: found {getattr(options, key)}, but the layers stay {layers}; "
                "leave it out, or set alignment.layers: adaptive"
            )


def _check_numbers(options: AlignmentConfig) -> None:
    def fail(key: str, expected: str):
        raise ValueError(f"alignment.{key}: found {getattr(options, key)!r}, expected {expected}")

    for key in ("weight", "epsilon"):
        if not 0 < getattr(options, key) < float("inf"):
            fail(key, "more than 0")
    for key in ("iterations", "max_layers"):
        if getattr(options, key) < 1:
            fail(key, "1 or more")
    if not 0 <= options.position < float("inf"):
        fail("position", "0 or more")
    if options.adapt_interval < 0:
        fail("adapt_interval", "0 or more")
    if options.adapt_rows < 2:
        fail("adapt_rows", "2 or more: a sentence is found among others")
