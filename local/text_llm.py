"""Tiny LLMs of the recipe's own corpora, trained on text alone.

They learn to copy and to translate in the very prompts that PART uses. Where a prompt has a place
for speech they get *stretched text*: the source's tokens with blanks between them, and noise over
all. A blank is the padding token, whose embedding the adapter learns to give for frames that say
nothing; an LLM that does not know blanks costs the adapter hundreds of updates.

Lines: see text_lines.py. Shapes: B = lines, L = tokens, D = width of the LLM.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from text_lines import Line, collate

MOST_SMEAR = 0.3  # share of a neighbor in an embedding, at most


@dataclass(frozen=True)
class LLMRecipe:
    """Size and training of the LLM."""

    layers: int = 3
    width: int = 160
    heads: int = 8  # copying takes many: with 4 heads and 2 of keys it is learned half as fast
    kv_heads: int = 8
    ffn: int = 384
    init_std: float = 0.06  # 0.02 leaves so narrow a model on a plateau for hundreds of steps
    steps: int = 900
    clean: float = 0.2  # until then (share of the steps) nothing is stretched,
    full: float = 0.5  # from then on all of it as far as speech is
    batch: int = 48
    lr: float = 2e-3
    warmup: int = 50
    seed: int = 0


def build_llm(recipe: LLMRecipe, tokenizer):
    """Make the untrained LLM.

    Args:
        recipe: sizes.
        tokenizer: gives vocabulary and special tokens.

    Returns:
        A Qwen2ForCausalLM with tied embeddings.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.ffn,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=recipe.init_std,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def load_llm(folder: Path):
    """Load an LLM in 32 bits."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def embed(llm, ids_BL, soft_BL, noise: float, generator) -> torch.Tensor:
    """Embed rows; in the place of speech embeddings run into each other, with noise over all.

    An adapter's words are neither pure nor one position wide: a weak copy beside a word is no
    second word.

    Args:
        llm: the LLM.
        ids_BL: token ids.
        soft_BL: which stand in the place of speech.
        noise: its size, in standard deviations of the embedding table; 0 leaves words pure, too.
        generator: draws it, on the CPU.

    Returns:
        embeds_BLD.
    """
    table = llm.get_input_embeddings()
    embeds_BLD = table(ids_BL)
    if not noise:
        return embeds_BLD
    for step in (1, -1):  # from the left neighbor, then from the right one
        from_soft_BL = soft_BL & soft_BL.roll(step, 1)
        drawn_BL = torch.rand(ids_BL.shape, generator=generator).to(ids_BL.device)
        share_BL = drawn_BL * MOST_SMEAR * from_soft_BL
        neighbor_BLD = embeds_BLD.roll(step, 1)
        embeds_BLD = torch.lerp(embeds_BLD, neighbor_BLD, share_BL[..., None])
    std = table.weight.detach().std()
    noise_BLD = torch.randn(embeds_BLD.shape, generator=generator).to(ids_BL.device) * noise * std
    return embeds_BLD + noise_BLD * soft_BL[..., None]


@torch.no_grad()
def exact_match(llm, lines: list[Line]) -> float:
    """Share of lines that greedy decoding would get right.

    It does so exactly if every target token is the likeliest one after the right tokens before it.

    Returns:
        Per cent.
    """
    ids_BL, soft_BL, labels_BL = (x.to(llm.device) for x in collate(lines))
    embeds_BLD = embed(llm, ids_BL, soft_BL, 0.0, None)
    best_BL = llm(inputs_embeds=embeds_BLD).logits.argmax(-1)[:, :-1]
    labels_BL = labels_BL[:, 1:]
    return 100.0 * ((best_BL == labels_BL) | (labels_BL < 0)).all(1).float().mean().item()


def train_llm(
    recipe: LLMRecipe,
    tokenizer,
    draw: Callable[[int, float], list[Line]],
    held_out: list[Line],
    out: Path,
    start: Path | None = None,
    device: torch.device | str = "cpu",
) -> float:
    """Train an LLM, and save it and its tokenizer in Hugging Face's folder form.

    Args:
        recipe: sizes and schedule.
        tokenizer: of `make_tokenizer`.
        draw: gives so many lines for the next update, stretched to so large a share (0 to 1).
        held_out: lines kept out of training, scored at the end.
        out: folder.
        start: folder of an LLM to go on from, made with the same tokenizer.
        device: to train on.

    Returns:
        Exact matches on held-out lines in per cent.
    """
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    llm = (build_llm(recipe, tokenizer) if start is None else load_llm(start)).to(device)
    n_parameters = sum(p.numel() for p in llm.parameters())
    print(f"llm: {n_parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens")
    optimizer = torch.optim.AdamW(
        llm.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, recipe.steps, recipe.warmup)
    )
    start, cpu = time.monotonic(), time.process_time()
    llm.train()
    for step in range(1, recipe.steps + 1):
        # Copying as such is learned first; stretched text from the start keeps it on a plateau.
        done = step / recipe.steps
        most = min(1.0, max(0.0, (done - recipe.clean) / (recipe.full - recipe.clean)))
        ids_BL, soft_BL, labels_BL = (x.to(device) for x in collate(draw(recipe.batch, most)))
        embeds_BLD = embed(llm, ids_BL, soft_BL, 0.3, generator)
        hidden_BLD = llm.model(inputs_embeds=embeds_BLD).last_hidden_state
        is_target_BL = labels_BL[:, 1:] >= 0
        logits = llm.lm_head(hidden_BLD[:, :-1][is_target_BL])  # target positions only
        loss = torch.nn.functional.cross_entropy(logits, labels_BL[:, 1:][is_target_BL])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(llm.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == recipe.steps:
            sec = time.monotonic() - start
            left = sec / step * (recipe.steps - step)
            print(
                f"llm: step {step}/{recipe.steps}, loss {loss.item():.3f}, {sec:.0f} s "
                f"({time.process_time() - cpu:.0f} CPU-s), {left:.0f} s left",
                flush=True,
            )
        if step % 500 == 0 and step < recipe.steps:
            print(
                f"llm: {exact_match(llm, held_out):.1f} % of held-out lines exactly right",
                flush=True,
            )
    llm.eval()
    score = exact_match(llm, held_out)
    print(f"llm: {score:.1f} % of held-out lines exactly right (copied or translated)")
    llm.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return score


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
