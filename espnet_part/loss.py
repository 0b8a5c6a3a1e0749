"""The loss over target tokens, and its sums by task and language.

Shapes: K target tokens, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_part.prompt import LANGUAGES, TASKS


def new_table(device: torch.device, aligned: bool = False) -> Tensor:
    """Zeros (tasks, languages, 3), float64: sums of loss and of right tokens, number of tokens.

    With inner alignment two more columns: sum of transport costs, number of rows that have one.
    """
    columns = 5 if aligned else 3
    return torch.zeros(len(TASKS), len(LANGUAGES), columns, dtype=torch.float64, device=device)


def target_loss(
    logits_KV: Tensor, label_K: Tensor, task_K: Tensor, tgt_K: Tensor, weights: list[float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of target tokens (Eq. 1), each times its task's weight, over their number.

    Args:
        logits_KV: One row per target token.
        label_K: The tokens.
        task_K: Index of each token's task in TASKS.
        tgt_K: Index of its target language in LANGUAGES.
        weights: Factor of each task.

    Returns:
        The loss, and stats: ``loss``, ``acc`` and ``table`` (tasks, languages, 3), float64: sums of
        unweighted loss, of tokens predicted right, and number of tokens.
    """
    loss_K = F.cross_entropy(logits_KV.float(), label_K, reduction="none")
    factors = torch.tensor(weights, device=loss_K.device)
    loss = (loss_K * factors[task_K]).sum() / len(loss_K)
    with torch.no_grad():
        right_K = (logits_KV.argmax(-1) == label_K).float()
        table = new_table(loss_K.device)
        columns_K3 = torch.stack([loss_K, right_K, torch.ones_like(loss_K)], 1)
        table.flatten(0, 1).index_add_(0, task_K * len(LANGUAGES) + tgt_K, columns_K3.double())
    return loss, {"loss": loss.detach(), "acc": right_K.mean(), "table": table}
