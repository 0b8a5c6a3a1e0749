import pytest
import torch
from core_helpers import wake

from espnet_part.adapter import build_adapter, match_scale

SIZES = dict(
    input_size=6, output_size=16, kernel=3, channels=None, layers=2, heads=4, ffn=24, dropout=0.0
)
KINDS = ["conv_transformer", "stack_mlp"]


def make(kind: str, stride: int = 2, **changes):
    """An adapter whose transformer layers do something, as new ones do not."""
    torch.manual_seed(0)
    adapter = build_adapter(kind, **{**SIZES, "stride": stride, **changes}).eval()
    wake(adapter)
    return adapter


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_say_what_comes_out(kind, stride):
    adapter = make(kind, stride)
    for frames in range(1, 14):
        out, lengths = adapter(torch.randn(1, frames, 6), torch.tensor([frames]))
        assert out.shape == (1, -(-frames // stride), 16)
        assert lengths.tolist() == [out.shape[1]]
        assert adapter.output_lengths(frames) == out.shape[1]


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_does_not_hear_its_batch_mates(kind, kernel, stride):
    adapter = make(kind, stride, kernel=kernel)
    lengths = [1, 5, 8, 13]
    frames = 100 * torch.randn(4, 13, 6)  # what stands in the padding must not matter
    clips = [torch.randn(n, 6) for n in lengths]
    for i, clip in enumerate(clips):
        frames[i, : len(clip)] = clip
    out, counts = adapter(frames, torch.tensor(lengths))
    for i, clip in enumerate(clips):
        alone, count = adapter(clip[None], torch.tensor([len(clip)]))
        assert int(counts[i]) == int(count)
        torch.testing.assert_close(out[i, : int(count)], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_frame_is_heard(kind):
    adapter = make(kind, 4)
    frames = torch.randn(1, 11, 6, requires_grad=True)
    adapter(frames, torch.tensor([11]))[0].square().sum().backward()
    heard = frames.grad.abs().sum(-1)[0] > 0
    # A kernel narrower than the stride skips frames: that is a choice of the YAML, not of padding.
    assert heard.all() if kind == "stack_mlp" else heard[[0, 1, 3, 4, 5, 7, 8, 9]].all()


def test_each_key_counts():
    base = make("conv_transformer")
    count = sum(p.numel() for p in base.parameters())
    changes = {"kernel": 5}, {"channels": 40}, {"layers": 1}, {"ffn": 32}, {"output_size": 32}
    for change in changes:
        other = make("conv_transformer", **change)
        assert sum(p.numel() for p in other.parameters()) != count, change
    frames, lengths = torch.randn(1, 9, 6), torch.tensor([9])
    for change in ({"heads": 2}, {"stride": 3}):
        other = make("conv_transformer", **change)
        other.load_state_dict(base.state_dict())
        out, wanted = other(frames, lengths)[0], base(frames, lengths)[0]
        assert out.shape != wanted.shape or not torch.allclose(out, wanted), change
    for kind in KINDS:
        noisy = make(kind, dropout=0.5).train()
        torch.manual_seed(1)
        first = noisy(frames, lengths)[0]
        assert not torch.equal(first, noisy(frames, lengths)[0])


def test_no_layers_leaves_the_cnn():
    adapter = make("conv_transformer", layers=0, heads=5)
    assert {name.split(".")[0] for name, _ in adapter.named_parameters()} == {"conv", "out"}
    out, lengths = adapter(torch.randn(2, 7, 6), torch.tensor([7, 3]))
    assert out.shape == (2, 4, 16) and lengths.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": 4}, "adapter.kernel must be odd, found 4"),
        ({"heads": 5}, r"adapter.heads \(5\) must divide the width of the LLM \(16\)"),
        ({"stride": 0}, "adapter.stride must be at least 1, found 0"),
        ({"kind": "qformer"}, "found 'qformer', expected one of conv_transformer stack_mlp"),
    ],
)
def test_values_that_do_not_go_together(changes, message):
    values = {"kind": "conv_transformer", "stride": 2, **SIZES, **changes}
    with pytest.raises(ValueError, match=message):
        build_adapter(**values)


def test_a_new_adapter_begins_with_its_cnn():
    """Its transformer layers add nothing yet, but learn from the first update on."""
    torch.manual_seed(0)
    adapter = build_adapter("conv_transformer", **{**SIZES, "stride": 1})
    frames = torch.randn(1, 7, 6)
    out, _ = adapter(frames, torch.tensor([7]))
    inner = torch.nn.functional.gelu(adapter.conv(frames.mT)).mT
    plain = adapter.norm(adapter.out(inner))
    torch.testing.assert_close(out, plain)
    out.square().sum().backward()
    assert all(bool(layer.ffn_out.weight.grad.any()) for layer in adapter.layers)


def test_a_new_adapter_speaks_as_loud_as_the_llm():
    table = 0.02 * torch.randn(50, 16)
    adapter = build_adapter("conv_transformer", **{**SIZES, "stride": 1})
    match_scale(adapter, table)
    out, _ = adapter(torch.randn(1, 40, 6), torch.tensor([40]))
    assert out.square().mean().sqrt().item() == pytest.approx(0.02, rel=0.1)
    other = build_adapter("stack_mlp", **{**SIZES, "stride": 1})
    before = other.norm.weight.clone()
    match_scale(other, table)
    assert torch.equal(before, other.norm.weight)
