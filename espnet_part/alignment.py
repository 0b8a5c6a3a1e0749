"""Optimal-transport cost between speech and its transcript, for inner alignment (AI-STA).

That a Wasserstein loss aligns the two sides inside the LLM is the paper's (arXiv 2503.10211). Cost,
masses, regularization and the position feature are our choice, after "CTC Meets Optimal Transport"
(ICML 2023); see docs/method.md.

Shapes: B rows, S speech positions, T transcript positions, D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def transport_cost(
    x_BSD: Tensor,
    x_lengths_B: Tensor,
    y_BTD: Tensor,
    y_lengths_B: Tensor,
    epsilon: float = 0.05,
    iterations: int = 50,
    position: float = 1.0,
) -> Tensor:
    """Cost of moving uniform mass from one sequence's features to the other's.

    What is returned is ``<P, C>`` under the plan P of the entropic problem. P is formed without a
    gradient and taken as given: by the envelope theorem the gradient of ``<P, C>`` at fixed P is
    that of the entropic objective ``min_P <P, C> + eps KL(P | a b)`` at its solution. Nothing is
    differentiated through the iterations, so they cost no memory.

    Args:
        x_BSD: Features of one side; padding carries no mass and gets no gradient, and what stands
            there is not read, be it nan.
        x_lengths_B: Real positions of each row, at least 1.
        y_BTD: Features of the other side.
        y_lengths_B: Their real positions, at least 1.
        epsilon: Regularization, as a share of the row's mean cost.
        iterations: Of Sinkhorn's algorithm.
        position: Weight of a position feature that runs from 0 to this value over each sequence:
            it draws the plan towards the diagonal. 0 leaves it out.

    Returns:
        Cost of each row (B,), float32 (float64 for features in float64), 0 or more. The squared
        distance of two unit vectors is at most 4, that of two positions at most `position`**2.

    Raises:
        ValueError: A row without any position on one side.
    """
    if bool((x_lengths_B < 1).any() | (y_lengths_B < 1).any()):
        raise ValueError(
            f"transport needs positions on both sides, found lengths {x_lengths_B.tolist()} and "
            f"{y_lengths_B.tolist()}; leave such rows out"
        )
    with torch.autocast(x_BSD.device.type, enabled=False):
        cost_BST = pair_costs(x_BSD, x_lengths_B, y_BTD, y_lengths_B, position)
        with torch.no_grad():
            real_BST = _real_pairs(x_lengths_B, y_lengths_B, cost_BST)
            total_B = (cost_BST * real_BST).sum((1, 2))
            # Two sequences that agree everywhere have no cost to be a share of.
            mean_B = (total_B / (x_lengths_B * y_lengths_B)).clamp(min=1e-6)
            plan_BST = sinkhorn_plan(
                cost_BST, x_lengths_B, y_lengths_B, epsilon * mean_B, iterations
            )
        return (plan_BST * cost_BST).sum((1, 2))


def pair_costs(
    x_BSD: Tensor, x_lengths_B: Tensor, y_BTD: Tensor, y_lengths_B: Tensor, position: float
) -> Tensor:
    """Squared Euclidean distances of all pairs (B, S, T), float32 or more.

    Features have unit norm, as a few dimensions and positions of an LLM's residual stream are
    larger than all others by orders of magnitude. Positions are a feature beside them. Padding is
    not read: at it stands some finite value.
    """
    dtype = torch.promote_types(x_BSD.dtype, torch.float32)
    # Not left to the masses: 0 times nan is nan, in the cost and in the gradient.
    x_BSD = x_BSD.masked_fill(~_real(x_lengths_B, x_BSD.shape[1])[:, :, None], 0)
    y_BTD = y_BTD.masked_fill(~_real(y_lengths_B, y_BTD.shape[1])[:, :, None], 0)
    x_BSD = F.normalize(x_BSD.to(dtype), dim=-1)
    y_BTD = F.normalize(y_BTD.to(dtype), dim=-1)
    # 2 - 2 cos, but for vectors of zeros, which have no direction.
    squares_BST = x_BSD.square().sum(-1)[:, :, None] + y_BTD.square().sum(-1)[:, None, :]
    cost_BST = (squares_BST - 2 * x_BSD @ y_BTD.transpose(1, 2)).clamp(min=0)
    if position:
        at_BS = _positions(x_lengths_B, x_BSD.shape[1], dtype)
        at_BT = _positions(y_lengths_B, y_BTD.shape[1], dtype)
        cost_BST = cost_BST + (position * (at_BS[:, :, None] - at_BT[:, None, :])).square()
    return cost_BST


@torch.no_grad()
def sinkhorn_plan(
    cost_BST: Tensor,
    x_lengths_B: Tensor,
    y_lengths_B: Tensor,
    epsilon_B: Tensor,
    iterations: int,
) -> Tensor:
    """Entropic transport plan between uniform masses, by Sinkhorn's algorithm in the log domain.

    Args:
        cost_BST: Cost of each pair; what stands at padding is not read.
        x_lengths_B: Real positions of each row, at least 1.
        y_lengths_B: Real positions of the other side, at least 1.
        epsilon_B: Regularization, in units of the cost.
        iterations: Each one updates both sides.

    Returns:
        Plan (B, S, T): 0 at padding; its column sums are exact, its row sums as good as the
        iterations make them.
    """
    log_a_B1S = _log_masses(x_lengths_B, cost_BST.shape[1], cost_BST.dtype)[:, None, :]
    log_b_B1T = _log_masses(y_lengths_B, cost_BST.shape[2], cost_BST.dtype)[:, None, :]
    real_BST = _real_pairs(x_lengths_B, y_lengths_B, cost_BST)
    log_k_BST = -cost_BST.masked_fill(~real_BST, 0) / epsilon_B[:, None, None]
    log_k_BTS = log_k_BST.transpose(1, 2).contiguous()  # sums run over what lies together
    # Padding starts without mass, and -inf it stays.
    log_v_B1T = torch.zeros_like(log_b_B1T).masked_fill(log_b_B1T.isinf(), -torch.inf)
    log_u_B1S = torch.zeros_like(log_a_B1S)
    for _ in range(iterations):
        log_u_B1S = log_a_B1S - (log_k_BST + log_v_B1T).logsumexp(2)[:, None, :]
        log_v_B1T = log_b_B1T - (log_k_BTS + log_u_B1S).logsumexp(2)[:, None, :]
    return (log_k_BST + log_u_B1S.transpose(1, 2) + log_v_B1T).exp()


def _real(lengths_B: Tensor, longest: int) -> Tensor:
    """Mask of real positions (B, longest)."""
    return torch.arange(longest, device=lengths_B.device) < lengths_B[:, None]


def _real_pairs(x_lengths_B: Tensor, y_lengths_B: Tensor, cost_BST: Tensor) -> Tensor:
    """Mask of pairs of real positions (B, S, T)."""
    real_BS = _real(x_lengths_B, cost_BST.shape[1])
    return real_BS[:, :, None] & _real(y_lengths_B, cost_BST.shape[2])[:, None, :]


def _log_masses(lengths_B: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """log(1 / length) at real positions, -inf at padding: (B, longest)."""
    log_BL = -lengths_B.to(dtype).log()[:, None].expand(-1, longest)
    return log_BL.masked_fill(~_real(lengths_B, longest), -torch.inf)


def _positions(lengths_B: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """Places from 0 to 1 within each sequence, 0 in one of length 1: (B, longest)."""
    steps = torch.arange(longest, device=lengths_B.device, dtype=dtype)
    return steps / (lengths_B[:, None].to(dtype) - 1).clamp(min=1)
