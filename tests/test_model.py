import torch
import torch.nn.functional as F


def test_loss_counts_targets_and_end_only(make_model, make_batch):
    model = make_model().eval()
    batch = make_batch(model, ["asr", "st", "mt"])
    loss, stats, weight = model(**batch)
    assert int(weight) == int(batch["is_target"].sum())
    assert torch.isfinite(loss)


def _oracle(model, batch):
    """Transformers' own loss on the same rows, padded right, labels -100 but for the targets."""
    frames, lengths = model.speech_frames(batch["speech"], batch["speech_lengths"])
    embed = model.llm.get_input_embeddings()
    clip = {int(row): i for i, row in enumerate(batch["speech_row"])}
    rows, labels, start = [], [], 0
    for b, count in enumerate(batch["token_lengths"].tolist()):
        ids = batch["token_ids"][start : start + count]
        target = batch["is_target"][start : start + count]
        place = int(batch["speech_place"][b])
        middle = frames[clip[b], : lengths[clip[b]]] if b in clip else frames.new_zeros(0, 32)
        rows.append(torch.cat([embed(ids[:place]), middle, embed(ids[place:])]))
        wanted = torch.where(target, ids, torch.tensor(-100))
        gap = torch.full((len(middle),), -100)
        labels.append(torch.cat([wanted[:place], gap, wanted[place:]]))
        start += count
    longest = max(map(len, rows))
    embeds = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
    mask = torch.stack([(torch.arange(longest) < len(row)).long() for row in rows])
    padded = torch.stack([F.pad(x, (0, longest - len(x)), value=-100) for x in labels])
    return model.llm(inputs_embeds=embeds, attention_mask=mask, labels=padded).loss


def test_packed_equals_transformers_padded(make_model, make_batch):
    for llm in ("byte", "sentencepiece"):
        model = make_model(llm=llm).eval()
        batch = make_batch(model, ["asr", "mt", "st", "asr", "mt"])
        packed, _, _ = model(**batch)
        assert abs(float((packed - _oracle(model, batch)).detach())) < 1e-5 * float(packed)
