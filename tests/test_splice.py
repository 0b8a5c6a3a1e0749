import numpy as np
import pytest
import torch

from espnet_part.splice import flatten, packed_layout, pad_left, pad_waves, splice


def column(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def picture(token_lengths, places, speech_lengths) -> list[int]:
    """Text is 1, 2, 3 ..., speech -1, -2, -3 ..., as they stand in the pack."""
    tokens, frames = sum(token_lengths), sum(speech_lengths)
    layout = packed_layout(*map(torch.tensor, (token_lengths, places, speech_lengths)))
    packed = splice(
        torch.arange(1.0, tokens + 1)[:, None], -torch.arange(1.0, frames + 1)[:, None], layout
    )
    return packed[:, 0].int().tolist()


def test_picture():
    # A row with speech inside, a text row, one that starts and one that ends with its speech.
    assert picture([4, 3, 2, 1], [3, 0, 0, 1], [2, 0, 1, 3]) == (
        [1, 2, 3, -1, -2, 4] + [5, 6, 7] + [-3, 8, 9] + [10, -4, -5, -6]
    )
    assert picture([2], [1], [0]) == [1, 2]
    assert picture([0, 1], [0, 0], [2, 0]) == [-1, -2, 1]


def test_layout_in_numbers():
    layout = packed_layout(torch.tensor([3, 2]), torch.tensor([1, 0]), torch.tensor([2, 0]))
    assert layout.row_lengths == [5, 2]
    assert layout.position_M.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert layout.row_M.tolist() == [0] * 5 + [1] * 2
    assert layout.text_at_N.tolist() == [0, 3, 4, 5, 6]
    assert layout.speech_at_S.tolist() == [1, 2]


def test_random_rows_against_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        rows = int(torch.randint(1, 6, (), generator=generator))
        tokens = torch.randint(0, 5, (rows,), generator=generator)
        frames = torch.randint(0, 4, (rows,), generator=generator)
        places = (torch.rand(rows, generator=generator) * (tokens + 1)).long()
        wanted, t, s = [], 0, 0
        for n, p, f in zip(tokens.tolist(), places.tolist(), frames.tolist(), strict=True):
            wanted += [*range(t + 1, t + p + 1)]
            wanted += [-i for i in range(s + 1, s + f + 1)]
            wanted += [*range(t + p + 1, t + n + 1)]
            t, s = t + n, s + f
        assert picture(tokens.tolist(), places.tolist(), frames.tolist()) == wanted


def test_gradients_go_where_the_embeddings_came_from():
    text = column(1, 2, 3).requires_grad_()
    speech = column(4, 5).requires_grad_()
    layout = packed_layout(torch.tensor([3]), torch.tensor([1]), torch.tensor([2]))
    splice(text, speech, layout).backward(column(10, 20, 30, 40, 50))
    assert text.grad[:, 0].tolist() == [10, 40, 50]
    assert speech.grad[:, 0].tolist() == [20, 30]


def test_the_inputs_stay_as_they_are():
    text, speech = column(1, 2), column(9)
    layout = packed_layout(torch.tensor([2]), torch.tensor([1]), torch.tensor([1]))
    splice(text, speech, layout).zero_()
    assert text[:, 0].tolist() == [1, 2] and speech[:, 0].tolist() == [9]


def test_dtype_is_that_of_the_text():
    layout = packed_layout(torch.tensor([1]), torch.tensor([0]), torch.tensor([1]))
    assert splice(column(1).bfloat16(), column(2), layout).dtype == torch.bfloat16


@pytest.mark.parametrize(("text", "speech"), [(2, 2), (3, 1), (4, 2), (3, 3)])
def test_counts_that_do_not_fit(text, speech):
    layout = packed_layout(torch.tensor([3]), torch.tensor([1]), torch.tensor([2]))
    with pytest.raises(ValueError, match=f"found {text} text and {speech} speech.*3 and 2"):
        splice(torch.zeros(text, 4), torch.zeros(speech, 4), layout)


@pytest.mark.parametrize("place", [-1, 4])
def test_a_place_outside_its_row(place):
    with pytest.raises(ValueError, match="speech must stand within its row"):
        packed_layout(torch.tensor([5, 3]), torch.tensor([5, place]), torch.tensor([1, 1]))


def test_flatten_takes_valid_frames_only():
    frames = torch.arange(12.0).view(2, 3, 2)
    flat = flatten(frames, torch.tensor([1, 3]))
    assert flat.tolist() == [[0, 1], [6, 7], [8, 9], [10, 11]]


def test_pad_left():
    embeds, mask = pad_left(column(1, 2, 3, 4), [1, 3])
    assert embeds[..., 0].tolist() == [[0, 0, 1], [2, 3, 4]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert mask.dtype == torch.long


def test_pad_waves():
    reversed_view = np.arange(3, dtype=np.float64)[::-1]
    waves, lengths = pad_waves([np.ones(2, dtype=np.float32), reversed_view])
    assert waves.tolist() == [[1, 1, 0], [2, 1, 0]] and waves.dtype == torch.float32
    assert lengths.tolist() == [2, 3]
