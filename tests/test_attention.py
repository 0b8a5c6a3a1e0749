import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from espnet_part.attention import NAME, packed_inputs
from espnet_part.llm import check_packing

LENGTHS = [4, 1, 9, 6]
SIZES = dict(
    vocab_size=64,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=32,
    max_position_embeddings=64,
)
GPT2 = dict(vocab_size=64, n_embd=16, n_layer=2, n_head=4, n_positions=64)
LLMS = {
    "qwen2": SIZES,
    "llama": dict(SIZES, num_key_value_heads=4),
    "mistral": dict(SIZES, sliding_window=3),
    "gemma2": dict(SIZES, head_dim=4, sliding_window=3, attn_logit_softcapping=2.0),
    "qwen3": dict(SIZES, head_dim=8),
    "granite": dict(SIZES, attention_multiplier=0.2),  # its own factor on the scores
    "gpt2": GPT2,
}


def make(kind: str, attention: str, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**LLMS[kind], **changes})
    llm = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)  # attention that is far from even
    return llm


@pytest.mark.parametrize("kind", LLMS)
def test_packed_equals_each_row_by_transformers_own(kind):
    ours, theirs = make(kind, NAME), make(kind, "eager")
    ids = torch.randint(0, 64, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    position = torch.cat([torch.arange(n) for n in LENGTHS])
    packed = ours(**packed_inputs(ours.get_input_embeddings()(ids), position, LENGTHS)).logits[0]
    rows = torch.cat([theirs(input_ids=row[None]).logits[0] for row in ids.split(LENGTHS)])
    torch.testing.assert_close(packed, rows, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(packed.square().sum(), list(ours.parameters()))
    wanted = torch.autograd.grad(rows.square().sum(), list(theirs.parameters()))
    scale = max(float(grad.abs().max()) for grad in wanted)
    assert (
        max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) < 1e-5 * scale
    )


def test_the_row_lengths_matter():
    """The test above can fail: other boundaries give other logits."""
    llm = make("qwen2", NAME)
    embeds = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    position = torch.arange(4).repeat(2)
    split = llm(**packed_inputs(embeds, position, [4, 4])).logits
    whole = llm(**packed_inputs(embeds, position, [8])).logits
    torch.testing.assert_close(split[0, :4], whole[0, :4])
    assert (split[0, 4:] - whole[0, 4:]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_decoding_with_a_cache(kind):
    """Without packed lengths it is transformers' own attention, padding and cache included."""
    ours, theirs = make(kind, NAME), make(kind, "eager")
    ids = torch.arange(12).view(2, 6) * 5 % 61
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    settings = dict(max_new_tokens=5, do_sample=False, pad_token_id=0)
    found = ours.generate(input_ids=ids, attention_mask=mask, **settings)
    assert torch.equal(found, theirs.generate(input_ids=ids, attention_mask=mask, **settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llms_that_pack(dtype):
    for kind in LLMS:
        check_packing(make(kind, NAME).to(dtype))


def test_llms_that_do_not_pack():
    with pytest.raises(ValueError, match="mixes the rows of a packed batch.*choose another LLM"):
        check_packing(make("qwen2", "eager"))
    config = AutoConfig.for_model(
        "mamba", vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4
    )
    state_space = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="MambaForCausalLM (cannot be run packed|mixes the rows)"):
        check_packing(state_space)
