import pickle

import pytest
import torch
from core_helpers import CONFORMER, make_loop, same, snapshot, update

from espnet_part.checkpoint import read_checkpoint, write_atomically

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj", "down_proj"]}
ADAPTER_ONLY = {"trainable": {"adapter": "all"}, "lr": {"adapter": 1e-3}}
TASKS = ["asr", "st", "mt"]


def build(make_model, lora=None, policy=None, **changes):
    llm = {**changes.pop("llm_keys", {}), "lora": lora}
    parts = {"llm": llm, **changes.pop("model", {})}
    model = make_model(**changes, **ADAPTER_ONLY, model=parts)
    if policy:
        model.set_trainable(policy)
    return model


def perturb(model, seed: int = 1) -> None:
    """What training does: every trainable tensor differs from its source afterwards."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def save(model, path) -> str:
    write_atomically(path, model.trimmed_state())
    return str(path)


def load(model, path):
    return model.load_trimmed_state(read_checkpoint(path), str(path))


@torch.no_grad()
def logits(model, batch):
    from espnet_part.attention import packed_inputs

    model.eval()
    embeds = model.llm.get_input_embeddings()(batch["token_ids"])
    lengths = batch["token_lengths"].tolist()
    positions = torch.cat([torch.arange(n) for n in lengths])
    return model.llm(**packed_inputs(embeds, positions, lengths)).logits


@torch.no_grad()
def loss(model, batch):
    return model.eval()(**batch)[0]


# ----- from phase to phase -----

ALL = {"encoder": "all", "adapter": "all", "llm": "all"}
WITH_LORA = {"encoder": "last:8", "adapter": "all", "llm": "lora"}


@pytest.mark.parametrize("encoder", ["sensevoice", "whisper", "transformers", "espnet"])
def test_a_phase_starts_where_the_last_one_ended(make_model, make_batch, tmp_path, encoder):
    first = build(make_model, encoder=encoder, policy={"encoder": "last:8", "adapter": "all"})
    perturb(first)
    path = save(first, tmp_path / "latest.pth")
    second = build(make_model, encoder=encoder, seed=5, policy=ALL)
    batch = make_batch(first, TASKS)
    assert loss(second, batch) != loss(first, batch)
    report = {row["part"]: row for row in load(second, path)}
    assert torch.equal(loss(second, batch), loss(first, batch))
    held = set(read_checkpoint(path)["model"])
    assert report["llm"]["loaded"] == 0 and report["adapter"]["from_source"] == 0
    parameters = [name for name, _ in first.encoder.named_parameters()]
    assert report["encoder"]["loaded"] == sum(f"encoder.{name}" in held for name in parameters)
    assert report["encoder"]["loaded"] + report["encoder"]["from_source"] == len(parameters)
    assert 0 < report["encoder"]["loaded"] < len(parameters)
    assert report["encoder"]["fresh"] == report["llm"]["fresh"] == 0


def test_never_a_copy_of_a_frozen_llm(make_model, tmp_path):
    for policy, lora, expected in (
        ({"adapter": "all"}, None, set()),
        ({"encoder": "all", "adapter": "all"}, None, set()),
        ({"adapter": "all", "llm": "lora"}, LORA, {"lora_A", "lora_B"}),
        ({"adapter": "all", "llm": ["*.norm.weight"]}, None, {"norm"}),
    ):
        model = build(make_model, lora, policy)
        held = read_checkpoint(save(model, tmp_path / "c.pth"))["model"]
        llm = {name for name in held if name.startswith("llm.")}
        assert len(llm) == len([n for n, p in model.llm.named_parameters() if p.requires_grad])
        for name in llm:
            assert expected & set(name.split(".")), name


def test_trained_once_is_saved_ever_after(make_model, make_batch, tmp_path):
    """Phase 2a trains encoder layers, a later phase freezes them, the next one reads its file."""
    first = build(make_model, policy={"encoder": "last:1", "adapter": "all"})
    perturb(first)
    one = save(first, tmp_path / "1.pth")
    second = build(make_model, seed=2, policy={"llm": ["*.norm.weight"], "adapter": "all"})
    load(second, one)
    perturb(second, 2)
    two = save(second, tmp_path / "2.pth")
    held = read_checkpoint(two)["model"]
    assert any(name.startswith("encoder.model.layers.9.") for name in held)
    third = build(make_model, seed=3, policy={"adapter": "all"})
    load(third, two)
    batch = make_batch(first, TASKS)
    assert torch.equal(loss(third, batch), loss(second, batch))
    assert set(read_checkpoint(save(third, tmp_path / "3.pth"))["model"]) == set(held)


@pytest.mark.parametrize("llm", ["byte", "sentencepiece"])
def test_lora_on_to_on(make_model, make_batch, tmp_path, llm):
    first = build(make_model, LORA, WITH_LORA, llm=llm)
    perturb(first)
    path = save(first, tmp_path / "c.pth")
    other = {**LORA, "dropout": 0.5, "targets": LORA["targets"][::-1]}  # the same tensors
    second = build(make_model, other, WITH_LORA, llm=llm, seed=2)
    report = {row["part"]: row for row in load(second, path)}
    batch = make_batch(first, TASKS)
    assert torch.equal(loss(second, batch), loss(first, batch))
    assert report["llm"]["loaded"] == 2 * 3 * 2 and report["llm"]["fresh"] == 0


@pytest.mark.parametrize("llm", ["byte", "sentencepiece"])
def test_lora_on_to_off_merges(make_model, make_batch, tmp_path, llm):
    first = build(make_model, LORA, WITH_LORA, llm=llm)
    batch = make_batch(first, TASKS)
    source = logits(first, batch)
    perturb(first)
    path = save(first, tmp_path / "c.pth")
    second = build(make_model, None, ALL, llm=llm, seed=2)
    report = {row["part"]: row for row in load(second, path)}
    assert report["llm"]["loaded"] == 2 * 3
    wanted = logits(first, batch)
    assert (wanted - source).abs().max() > 0.1  # LoRA does something
    torch.testing.assert_close(logits(second, batch), wanted, rtol=1e-4, atol=1e-4)
    # And the merged weights are saved, whether the LLM trains further or not.
    third = build(make_model, None, {"adapter": "all"}, llm=llm, seed=3)
    load(third, path)
    fourth = build(make_model, None, {"adapter": "all"}, llm=llm, seed=4)
    load(fourth, save(third, tmp_path / "d.pth"))
    assert torch.equal(logits(fourth, batch), logits(second, batch))


def test_lora_off_to_on(make_model, make_batch, tmp_path):
    first = build(make_model, None, ALL)
    perturb(first)
    path = save(first, tmp_path / "c.pth")
    second = build(make_model, LORA, WITH_LORA, seed=2)
    report = {row["part"]: row for row in load(second, path)}
    batch = make_batch(first, TASKS)
    torch.testing.assert_close(logits(second, batch), logits(first, batch))
    assert report["llm"]["fresh"] == 2 * 3 * 2
    # Its file holds the LLM that phase 0 trained, and LoRA; both are needed next time.
    perturb(second, 2)
    wanted = loss(second, batch)
    third = build(make_model, LORA, WITH_LORA, seed=3)
    load(third, save(second, tmp_path / "d.pth"))
    assert torch.equal(loss(third, batch), wanted)
    merged = build(make_model, None, ALL, seed=4)
    load(merged, tmp_path / "d.pth")
    torch.testing.assert_close(loss(merged, batch), wanted, rtol=1e-4, atol=1e-4)


def test_other_lora_is_refused(make_model, tmp_path):
    first = build(make_model, LORA, WITH_LORA)
    path = save(first, tmp_path / "c.pth")
    for change in ({"r": 8}, {"alpha": 16}, {"targets": ["q_proj"]}):
        second = build(make_model, {**LORA, **change}, WITH_LORA)
        with pytest.raises(ValueError, match="was trained with LoRA"):
            load(second, path)


def test_bf16_llm_and_its_fp32_masters(make_model, make_batch, tmp_path):
    keys = {"dtype": "bfloat16"}
    first = build(make_model, None, ALL, llm_keys=keys)
    perturb(first)
    path = save(first, tmp_path / "c.pth")
    held = read_checkpoint(path)["model"]
    assert {tensor.dtype for tensor in held.values()} == {torch.float32}
    second = build(make_model, None, {"adapter": "all"}, llm_keys=keys)
    load(second, path)
    for name, parameter in first.llm.named_parameters():
        assert same(second.llm.get_parameter(name), parameter), name


def test_a_failed_load_names_the_file(make_model, tmp_path):
    path = save(build(make_model), tmp_path / "of_phase_1.pth")
    with pytest.raises(ValueError, match="of_phase_1.pth"):
        load(build(make_model, encoder="whisper"), path)


# ----- gaps -----


def broken(make_model, tmp_path, change, lora=None, policy=None):
    """Saves a checkpoint after `change(payload)`."""
    model = build(make_model, lora, policy or ALL)
    payload = model.trimmed_state()
    change(payload)
    path = tmp_path / "c.pth"
    write_atomically(path, payload)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "encoder.model.layers.3.mlp.fc1.bias",
        "adapter.conv.weight",
        "llm.model.layers.1.self_attn.k_proj.weight",
        "llm.model.norm.weight",
    ],
)
def test_one_tensor_missing(make_model, tmp_path, name):
    path = broken(make_model, tmp_path, lambda payload: payload["model"].pop(name))
    with pytest.raises(ValueError, match=f"lacks 1 tensor.*{name}"):
        load(build(make_model), path)


@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["merged", "kept"])
def test_half_a_lora_pair_missing(make_model, tmp_path, half, lora):
    name = f"llm.model.layers.1.mlp.down_proj.{half}.default.weight"
    change = lambda payload: payload["model"].pop(name)  # noqa: E731
    path = broken(make_model, tmp_path, change, LORA, WITH_LORA)
    with pytest.raises(ValueError, match=f"lacks 1 tensor.*{name}"):
        load(build(make_model, lora), path)


def test_not_declared_and_not_there(make_model, tmp_path):
    """A file that forgot a tensor of the adapter altogether: nothing else can supply it."""

    def forget(payload):
        payload["trained"].remove("adapter.out.bias")
        del payload["model"]["adapter.out.bias"]

    with pytest.raises(ValueError, match="lacks 1 tensor.*adapter.out.bias"):
        load(build(make_model), broken(make_model, tmp_path, forget))


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "encoder.model.layers.10.mlp.fc1.bias",
        "adapter.conv2.weight",
        "llm.lm_head.weight",
        "llm.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "decoder.weight",
    ],
)
def test_one_tensor_too_many(make_model, tmp_path, name, declared):
    def add(payload):
        payload["model"][name] = torch.zeros(3)
        payload["trained"] += [name] * declared

    with pytest.raises(ValueError, match=f"unexpected tensor '{name}'"):
        load(build(make_model), broken(make_model, tmp_path, add))


def test_a_tensor_that_never_trained(make_model, tmp_path):
    """A known name, but of a part that the file declares frozen."""
    name = "llm.model.norm.weight"

    def add(payload):
        payload["model"][name] = torch.zeros(32)

    path = broken(make_model, tmp_path, add, policy={"adapter": "all"})
    with pytest.raises(ValueError, match=f"unexpected tensor '{name}', not among"):
        load(build(make_model), path)


def test_wrong_shape(make_model, tmp_path):
    def cut(payload):
        payload["model"]["adapter.conv.weight"] = torch.zeros(32, 32, 5)

    with pytest.raises(
        ValueError, match=r"adapter.conv.weight has shape \(32, 32, 5\).*\(32, 32, 3\)"
    ):
        load(build(make_model), broken(make_model, tmp_path, cut))


def test_nothing_is_loaded_by_halves(make_model, tmp_path):
    """A file that is refused must not have changed the model."""

    def cut(payload):
        payload["model"]["llm.model.norm.weight"] = torch.zeros(5)
        payload["model"]["adapter.conv.bias"] += 1

    path = broken(make_model, tmp_path, cut)
    model = build(make_model)
    before = snapshot(model)
    with pytest.raises(ValueError):
        load(model, path)
    assert all(same(tensor, before[name]) for name, tensor in snapshot(model).items())


# ----- other parts -----


def test_another_encoder(make_model, tmp_path, parts):
    import toy_parts

    path = save(build(make_model), tmp_path / "c.pth")
    with pytest.raises(ValueError, match="another encoder: its (hop|kind|hidden_size|layers|mel)"):
        load(build(make_model, encoder="whisper"), path)
    twin = toy_parts.make_encoder(tmp_path / "twin", "sensevoice", seed=1)
    with pytest.raises(ValueError, match="another encoder: its weights is '.*', this model's is"):
        load(build(make_model, model={"encoder": {"source": twin}}), path)


@pytest.mark.parametrize(
    ("change", "key"),
    [({"num_hidden_layers": 12}, "layers"), ({"hidden_size": 64}, "hidden_size")],
)
def test_an_encoder_of_another_size(make_model, tmp_path, change, key):
    import toy_parts

    def sized(**change):
        sizes = {**toy_parts.ENCODER_SIZES["sensevoice"], **change}
        return build(make_model, model={"encoder": {"source": None, "config": sizes}})

    path = save(sized(), tmp_path / "c.pth")
    with pytest.raises(ValueError, match=f"another encoder: its {key}"):
        load(sized(**change), path)


def test_another_llm(make_model, tmp_path):
    import toy_parts

    path = save(build(make_model), tmp_path / "c.pth")
    with pytest.raises(ValueError, match="another llm: its (type|vocabulary)"):
        load(build(make_model, llm="sentencepiece"), path)
    twin = toy_parts.make_llm(tmp_path / "twin", "byte", seed=1)
    with pytest.raises(ValueError, match="another llm: its weights"):
        load(build(make_model, llm_keys={"source": twin}), path)


def test_one_weight_of_the_source_differs_a_little(make_model, tmp_path):
    """A source fine-tuned by someone else has the same shapes; all its tensors moved."""
    model = build(make_model)
    path = save(model, tmp_path / "c.pth")
    other = build(make_model)
    with torch.no_grad():
        for parameter in other.llm.parameters():
            parameter *= 1.05
    from espnet_part.model_state import weights_id

    assert weights_id(other.llm) != weights_id(model.llm)
    other._fingerprint["llm"]["weights"] = weights_id(other.llm)
    with pytest.raises(ValueError, match="another llm"):
        load(other, path)


def test_the_same_source_in_another_dtype_is_the_same(make_model, make_batch, tmp_path):
    path = save(build(make_model), tmp_path / "c.pth")
    model = build(
        make_model, llm_keys={"dtype": "bfloat16"}, model={"encoder": {"dtype": "bfloat16"}}
    )
    load(model, path)
    load(build(make_model, LORA), path)


def test_another_adapter(make_model, tmp_path):
    path = save(build(make_model), tmp_path / "c.pth")
    for change in ({"stride": 1}, {"layers": 2}, {"heads": 2}, {"kernel": 5}):
        with pytest.raises(ValueError, match=f"another adapter: its {next(iter(change))}"):
            load(build(make_model, model={"adapter": change}), path)
    load(build(make_model, model={"adapter": {"dropout": 0.5}}), path)


# ----- random parts and buffers -----


def test_random_parts_are_held_whole(make_model, make_batch, tmp_path):
    import toy_parts

    random = {"source": None, "config": toy_parts.ENCODER_SIZES["sensevoice"]}
    first = build(make_model, model={"encoder": random}, policy={"adapter": "all"}, seed=1)
    path = save(first, tmp_path / "c.pth")
    second = build(make_model, model={"encoder": random}, policy={"adapter": "all"}, seed=2)
    batch = make_batch(first, TASKS)
    assert loss(first, batch) != loss(second, batch)
    load(second, path)
    assert torch.equal(loss(first, batch), loss(second, batch))


def with_statistics(model, affine: bool):
    """A norm with running statistics in place of the adapter's last one."""
    model.adapter.norm = torch.nn.BatchNorm1d(32, affine=affine)
    model.own_dtypes |= {name: p.dtype for name, p in model.named_parameters()}
    return model


@pytest.mark.parametrize("affine", [True, False])
def test_statistics_travel(make_model, tmp_path, affine):
    first = with_statistics(build(make_model), affine)
    first.set_trainable({"adapter": "all"})
    first.adapter.norm.running_mean.add_(3)
    first.adapter.norm.num_batches_tracked.add_(7)
    path = save(first, tmp_path / "c.pth")
    second = with_statistics(build(make_model), affine)
    load(second, path)
    assert same(second.adapter.norm.running_mean, first.adapter.norm.running_mean)
    assert int(second.adapter.norm.num_batches_tracked) == 7

    payload = read_checkpoint(path)
    del payload["model"]["adapter.norm.running_var"]
    with pytest.raises(ValueError, match="lacks 1 tensor.*adapter.norm.running_var"):
        second.load_trimmed_state(payload, "c.pth")


def test_statistics_of_frozen_modules_stay_behind(make_model, tmp_path):
    from espnet_part.encoder import build_encoder

    recipe = {"encoder": "conformer", "encoder_conf": CONFORMER}
    build_encoder("espnet", config=recipe).save_pretrained(tmp_path / "encoder")
    source = {"kind": "espnet", "source": str(tmp_path / "encoder")}
    model = build(make_model, model={"encoder": source}, policy={"encoder": "last:1"})
    held = [name for name in model.trimmed_state()["model"] if "running_mean" in name]
    assert held == ["encoder.model.encoders.1.conv_module.norm.running_mean"]


# ----- files that are none -----


def test_no_such_file(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint .*nowhere.pth; train the phase before"):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="no checkpoint"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated(make_model, tmp_path, share):
    whole = (tmp_path / "c.pth", build(make_model))
    save(whole[1], whole[0])
    data = whole[0].read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="cut.pth cannot be read.*damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "data",
    [b"hello", b"\0" * 500, b"PK\x03\x04" + b"x" * 90, b"<html>404</html>", b"\x80\x02."],
)
def test_not_a_checkpoint(tmp_path, data):
    path = tmp_path / "c.pth"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="c.pth cannot be read"):
        read_checkpoint(path)


def test_random_bytes(tmp_path):
    path = tmp_path / "c.pth"
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        data = torch.randint(0, 256, (200,), generator=generator, dtype=torch.uint8)
        path.write_bytes(bytes(data.tolist()))
        with pytest.raises(ValueError, match="c.pth"):
            read_checkpoint(path)


class Code:
    ran = False

    def __reduce__(self):
        return (setattr, (Code, "ran", True))


@pytest.mark.parametrize("form", ["pickle", "torch", "inside"])
def test_code_is_not_run(tmp_path, form):
    path = tmp_path / "c.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Code()))
    else:
        torch.save(Code() if form == "torch" else {"format": 1, "model": Code()}, path)
    with pytest.raises(ValueError, match="cannot be read as tensors and plain values"):
        read_checkpoint(path)
    assert not Code.ran


def test_checkpoints_of_others(make_model, tmp_path):
    path = tmp_path / "c.pth"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)  # as ESPnet's valid.acc.best.pth
    with pytest.raises(ValueError, match="no espnet_part checkpoint.*weight.*latest.pth"):
        read_checkpoint(path)
    torch.save({"model": {}, "optimizers": [], "reporter": {}}, path)  # ESPnet's checkpoint.pth
    with pytest.raises(ValueError, match="no espnet_part checkpoint"):
        read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="found list"):
        read_checkpoint(path)
    torch.save({"format": 1, "model": {}}, path)
    with pytest.raises(ValueError, match="has no trained sources lora"):
        read_checkpoint(path)
    torch.save({"format": 2, "model": {}}, path)
    with pytest.raises(ValueError, match="of format 1"):
        read_checkpoint(path)


# ----- writing -----


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.pth"
    write_atomically(path, {"format": 1, "a": 1})
    old = path.read_bytes()

    def fail(payload, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, {"format": 1, "a": 2})
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth"]


def test_resume_restores_the_optimizer(make_model, make_batch, config_values, tmp_path):
    values = config_values()
    after = []
    for stop in (False, True):
        model = build(make_model, policy=ALL)
        batches = [make_batch(model, TASKS), make_batch(model, ["asr", "mt"])]
        loop = make_loop(model, values, tmp_path)
        for step in range(4):
            if stop and step == 2:
                loop.save()
                model = build(make_model, policy=ALL, seed=9)
                loop = make_loop(model, values, tmp_path)
                loop.resume(tmp_path / "checkpoint.pth")
                assert loop.step == 2
            update(loop, batches[step % 2])
        after.append(snapshot(model))
    assert all(same(after[0][name], after[1][name]) for name in after[0])


def test_resume_of_another_policy_is_refused(make_model, config_values, tmp_path):
    model = build(make_model, policy={"adapter": "all"})
    values = config_values(**ADAPTER_ONLY)
    make_loop(model, values, tmp_path).save()
    model = build(make_model, policy=ALL)
    with pytest.raises(ValueError, match="while training other parameters"):
        make_loop(model, config_values(), tmp_path).resume(tmp_path / "checkpoint.pth")
