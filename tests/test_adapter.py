import pytest
import torch

from espnet_part.adapter import build_adapter

SIZES = dict(input_size=6, output_size=16, kernel=3, layers=2, heads=4, ffn=24, dropout=0.0)
KINDS = ["conv_transformer", "stack_mlp"]


def make(kind: str, stride: int = 2, **changes):
    torch.manual_seed(0)
    return build_adapter(kind, **{**SIZES, "stride": stride, **changes}).eval()


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
    for change in ({"kernel": 5}, {"layers": 1}, {"ffn": 32}, {"output_size": 32}):
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
