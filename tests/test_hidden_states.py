import pytest
import torch

from espnet_part.attention import packed_inputs
from espnet_part.hidden_states import HiddenStates


def run(llm, layers, stop=False):
    """Six tokens in rows of 4 and 2; states, and what the LLM gave back."""
    ids = torch.arange(6) + 5
    position = torch.tensor([0, 1, 2, 3, 0, 1])
    out = None
    with HiddenStates(llm, layers, stop) as hidden:
        out = llm(**packed_inputs(llm.get_input_embeddings()(ids), position, [4, 2]))
    return hidden.states, out


@pytest.mark.parametrize("llm", ["byte", "sentencepiece"])
def test_states_are_those_of_transformers(make_model, llm):
    model = make_model(llm=llm).eval().llm
    depth = model.config.num_hidden_layers
    with torch.no_grad():
        states, out = run(model, range(depth + 1))
        first = torch.arange(4) + 5
        own = model(input_ids=first[None], output_hidden_states=True).hidden_states
        for layer in range(depth):
            torch.testing.assert_close(states[layer][:4], own[layer][0], rtol=1e-4, atol=1e-5)
        normed = model.model.norm(states[depth][:4])
        torch.testing.assert_close(normed, own[depth][0], rtol=1e-4, atol=1e-5)
        assert torch.equal(model.lm_head(model.model.norm(states[depth]))[None], out.logits)


def test_stop_ends_behind_the_deepest_layer(make_model):
    model = make_model().eval().llm
    ran = []
    for i, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_, i=i: ran.append(i + 1))
    with torch.no_grad():
        whole, out = run(model, [0, 1])
        assert ran == list(range(1, len(model.model.layers) + 1)) and out is not None
        for layers, expected in (([0], []), ([1, 0], [1])):
            ran.clear()
            states, out = run(model, layers, stop=True)
            assert ran == expected and out is None
            assert all(torch.equal(states[i], whole[i]) for i in layers)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("stop", [False, True])
def test_gradients_with_recomputed_activations(make_model, recompute, stop):
    grads = []
    for checkpointing in (False, recompute):
        changes = {"llm": {"gradient_checkpointing": checkpointing}}
        model = make_model(model=changes).eval()
        states, _ = run(model.llm, [1], stop)
        model.llm.zero_grad()
        states[1].square().sum().backward()
        assert len(states) == 1, "the recomputation must not be caught again"
        grads.append(model.llm.model.layers[0].mlp.down_proj.weight.grad)
    assert bool(grads[0].any())
    torch.testing.assert_close(grads[1], grads[0])


def test_hooks_go_however_it_ends(make_model):
    llm = make_model().eval().llm
    with pytest.raises(KeyError), HiddenStates(llm, [0, 1]):
        raise KeyError
    run(llm, [0, 2], stop=True)
    for module in llm.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_no_layers_and_wrong_ones(make_model):
    llm = make_model().eval().llm
    states, out = run(llm, [])
    assert states == {} and out is not None
    with pytest.raises(ValueError, match=r"layer 9: this LLM has layers 0 \(its embeddings\) to"):
        HiddenStates(llm, [0, 9])
