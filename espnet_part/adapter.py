"""The adapter: from encoder frames to the LLM's embedding space, shortening them on the way.

Shapes: B clips, T frames, D encoder width, C channels, H LLM width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("conv_transformer", "stack_mlp")


class ConvTransformerAdapter(nn.Module):
    """One CNN layer with stride, then transformer layers at the LLM's width (paper, section 2.2).

    The paper gives "two transformer layers and one CNN layer"; that the CNN comes first, and its
    kernel, are our choice (docs/method.md).

    Args:
        input_size: Width of the encoder, D.
        output_size: Width of the LLM, H.
        stride: Frames per output frame.
        kernel: Width of the CNN, odd.
        channels: Of the CNN, before a linear layer takes them to the LLM's width; None for as many
            as that width. Where the LLM is narrow they are what limits learning (RESULTS.md).
        layers: Transformer layers; 0 leaves the CNN alone.
        heads: Attention heads.
        ffn: Width of the feed-forward layers.
        dropout: Within the transformer layers.

    Raises:
        ValueError: An even kernel, or heads that do not divide the LLM's width.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        stride: int = 2,
        kernel: int = 3,
        channels: int | None = None,
        layers: int = 2,
        heads: int = 8,
        ffn: int = 4096,
        dropout: float = 0.0,
    ):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"adapter.kernel must be odd, found {kernel}")
        if layers and output_size % heads:
            raise ValueError(
                f"adapter.heads ({heads}) must divide the width of the LLM ({output_size})"
            )
        self.stride = stride
        channels = channels or output_size
        self.conv = nn.Conv1d(input_size, channels, kernel, stride, padding=kernel // 2)
        self.out = nn.Linear(channels, output_size)
        self.layers = nn.ModuleList(
            TransformerLayer(output_size, heads, ffn, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(output_size) if layers else nn.Identity()

    def output_lengths(self, lengths_B):
        """Number of output frames for a number of encoder frames."""
        return (lengths_B + self.stride - 1) // self.stride

    def forward(self, frames_BTD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Adapts padded frames.

        Args:
            frames_BTD: Encoder frames (B, T, D).
            lengths_B: Valid frames, (B,).

        Returns:
            Embeddings (B, ceil(T / stride), H) and their lengths (B,).
        """
        # The kernel reaches over a clip's end: what stands there must not depend on batch mates.
        valid_BT = _valid(lengths_B, frames_BTD.shape[1])
        x_BTC = self.conv((frames_BTD * valid_BT[..., None]).transpose(1, 2)).transpose(1, 2)
        x_BTH = self.out(F.gelu(x_BTC))
        lengths_B = self.output_lengths(lengths_B)
        if len(self.layers):
            mask_B11T = _valid(lengths_B, x_BTH.shape[1])[:, None, None]
            for layer in self.layers:
                x_BTH = layer(x_BTH, mask_B11T)
        return self.norm(x_BTH), lengths_B


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and feed-forward; positions come from the encoder's frames."""

    def __init__(self, size: int, heads: int, ffn: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.attention_out = nn.Linear(size, size)
        self.ffn_norm = nn.LayerNorm(size)
        self.ffn_in = nn.Linear(size, ffn)
        self.ffn_out = nn.Linear(ffn, size)
        self.dropout = nn.Dropout(dropout)
        # A new layer begins by adding nothing: the CNN in front of it learns first.
        for last in (self.attention_out, self.ffn_out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x_BTH: Tensor, mask_B11T: Tensor) -> Tensor:
        """(B, T, H) to the same, attending to the frames where `mask_B11T` is true."""
        batch, frames, size = x_BTH.shape
        qkv = self.qkv(self.attention_norm(x_BTH))
        q, k, v = qkv.view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_B11T)
        x_BTH = x_BTH + self.dropout(self.attention_out(mixed.transpose(1, 2).flatten(2)))
        inner = self.dropout(F.gelu(self.ffn_in(self.ffn_norm(x_BTH))))
        return x_BTH + self.dropout(self.ffn_out(inner))


class StackMLPAdapter(nn.Module):
    """Stacks neighboring frames and maps them by a two-layer MLP (as SLAM-ASR does).

    Args:
        input_size: Width of the encoder, D.
        output_size: Width of the LLM, H.
        stride: Frames stacked into one.
        ffn: Width of the hidden layer.
        dropout: Behind the hidden layer.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        stride: int = 2,
        ffn: int = 4096,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.stride = stride
        self.norm = nn.LayerNorm(input_size)
        self.hidden = nn.Linear(input_size * stride, ffn)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(ffn, output_size)

    def output_lengths(self, lengths_B):
        """Number of output frames for a number of encoder frames."""
        return (lengths_B + self.stride - 1) // self.stride

    def forward(self, frames_BTD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) with lengths to (B, ceil(T / stride), H) with lengths."""
        x_BTD = self.norm(frames_BTD) * _valid(lengths_B, frames_BTD.shape[1])[..., None]
        x_BTD = F.pad(x_BTD, (0, 0, 0, -x_BTD.shape[1] % self.stride))
        x_BTD = x_BTD.reshape(x_BTD.shape[0], -1, x_BTD.shape[2] * self.stride)
        x_BTH = self.out(self.dropout(F.gelu(self.hidden(x_BTD))))
        return x_BTH, self.output_lengths(lengths_B)


def build_adapter(
    kind: str,
    input_size: int,
    output_size: int,
    stride: int,
    kernel: int,
    channels: int | None,
    layers: int,
    heads: int,
    ffn: int,
    dropout: float,
) -> nn.Module:
    """Builds an adapter with random weights.

    Raises:
        ValueError: An unknown kind, or a stride below 1.
    """
    if stride < 1:
        raise ValueError(f"adapter.stride must be at least 1, found {stride}")
    if kind == "conv_transformer":
        return ConvTransformerAdapter(
            input_size, output_size, stride, kernel, channels, layers, heads, ffn, dropout
        )
    if kind == "stack_mlp":
        return StackMLPAdapter(input_size, output_size, stride, ffn, dropout)
    raise ValueError(f"adapter.kind: found {kind!r}, expected one of {' '.join(KINDS)}")


@torch.no_grad()
def match_scale(adapter: nn.Module, embeddings_VH: Tensor) -> None:
    """Starts an adapter's output at the size of the LLM's own embeddings.

    A layer norm gives values of size 1, ten to fifty times those of an embedding table; beside them
    what the LLM's layers add to the residual stream at speech positions is small. That it helps by
    itself is not shown (RESULTS.md).

    Args:
        adapter: One whose last module is a norm is scaled; others are left as they are.
        embeddings_VH: The LLM's embedding table.
    """
    norm = getattr(adapter, "norm", None)
    if isinstance(adapter, ConvTransformerAdapter) and isinstance(norm, nn.LayerNorm):
        norm.weight.fill_(embeddings_VH.detach().float().square().mean().sqrt().item())


def _valid(lengths_B: Tensor, frames: int) -> Tensor:
    return torch.arange(frames, device=lengths_B.device) < lengths_B[:, None]
