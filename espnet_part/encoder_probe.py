"""What is measured about an encoder whose code we do not know, once, when it is built."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from espnet_part.encoder import SpeechEncoder

# Rounding in float32 stays below 1e-4 of the frames' spread, the leaks that we met start at 1e-3.
LEAK = 3e-4


def time_axis(count: Callable[[int], int], start: int = 400) -> tuple[int, int]:
    """Hop and receptive field, in samples, of ``(n - receptive) // hop + 1`` frames.

    Args:
        count: Number of frames of a clip of n samples.
        start: Smallest n to ask for.

    Raises:
        ValueError: The numbers of frames do not follow that rule.
    """
    first = count(start)
    low = _first_length(count, first + 1, start)
    hop = _first_length(count, first + 2, low) - low
    receptive = low - first * hop
    for samples in (start, start + 1, 3000, 7777, 16000, 16001, 24500):
        expected = max((samples - receptive) // hop + 1, 0)
        if samples >= receptive and count(samples) != expected:
            raise ValueError(
                f"encoder: {samples} samples give {count(samples)} frames, expected {expected} "
                f"from a hop of {hop} and a receptive field of {receptive}; encoders that pad "
                "clips to a fixed length, or cut them, are not supported"
            )
    return hop, receptive


def _first_length(count: Callable[[int], int], frames: int, low: int) -> int:
    """Smallest number of samples from `low` on that gives at least `frames` frames."""
    high = low + 64
    while count(high) < frames:
        if high > 64000:
            raise ValueError(
                f"encoder: {high} samples still give fewer than {frames} frames; encoders that pad "
                "clips to a fixed length are not supported"
            )
        high = 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) >= frames else (middle + 1, high)
    return low


def find_layers(model: nn.Module, count: int | None = None) -> nn.ModuleList:
    """The stack of blocks: the list of modules of one class that has most weights.

    Args:
        model: Where to look.
        count: Number of blocks that the config tells; lists of this length go first.

    Raises:
        ValueError: There is none.
    """
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1
    ]
    if not lists:
        raise ValueError(f"encoder: found no list of blocks in {type(model).__name__}")

    def rank(blocks: nn.ModuleList) -> tuple[bool, int]:
        return len(blocks) == count, sum(weight.numel() for weight in blocks.parameters())

    return max(lists, key=rank)


@torch.no_grad()
def find_tail(run: Callable[[], object], model: nn.Module, last: nn.Module) -> list[nn.Module]:
    """The modules with weights of their own that `run` calls after the block `last`."""
    inside = set(last.modules())
    after: dict[nn.Module, None] = {}
    seen = []

    def note(module, _):
        if module is last:
            seen.append(True)
        elif seen and module not in inside and any(True for _ in module.parameters(False)):
            after[module] = None

    hooks = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return list(after)


@torch.no_grad()
def check_padding(encoder: SpeechEncoder, source: str) -> None:
    """Refuses encoders that give a clip other frames beside a longer one than alone.

    Args:
        encoder: With float32 weights; those on the meta device cannot be checked.
        source: Named in the message.

    Raises:
        ValueError: The frames differ, or their number is not what `frame_lengths` says.
    """
    if next(encoder.parameters()).device.type == "meta":
        return
    was_training = encoder.training
    encoder.eval()
    shortest = max(encoder.receptive, 400)
    lengths = torch.tensor([shortest + 5000, shortest + 9777])
    speech = 0.1 * torch.randn(2, int(lengths.max()), generator=torch.Generator().manual_seed(0))
    frames, counts = encoder(speech, lengths)
    alone, alone_counts = encoder(speech[:1, : lengths[0]], lengths[:1])
    encoder.train(was_training)
    expected = encoder.frame_lengths(lengths).tolist()
    found = [counts.tolist(), frames.shape[1], alone_counts.tolist(), alone.shape[1]]
    if found != [expected, expected[1], expected[:1], expected[0]]:
        raise ValueError(
            f"encoder {source}: clips of {lengths.tolist()} samples give {found} frames, expected "
            f"{expected}; its time axis is not supported"
        )
    width = int(counts[0])
    leak = float((frames[0, :width] - alone[0]).abs().max() / alone.std().clamp(min=1e-6))
    if not leak < LEAK:
        raise ValueError(
            f"encoder {source}: a clip beside a longer one gives other frames than alone (they "
            f"differ by {leak:.2g} of their spread), so its results would depend on the batch; "
            "choose a model that respects the padding mask (wav2vec 2.0: feat_extract_norm "
            "'layer', not 'group'; ESPnet: rel_pos_type 'latest', not 'legacy')"
        )
