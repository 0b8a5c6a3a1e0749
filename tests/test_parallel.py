"""Two and four processes (gloo, CPU) against one: the same updates, whatever rows a process has."""

import json

import numpy as np
import pytest
import torch
from training_runs import digest, fork_all, fork_group, make_loop, with_group

from espnet_part.dataset import StepDataset, collate, load_rows
from espnet_part.loop import Loop
from espnet_part.parallel import unused_parameters
from espnet_part.trainer import dummy_batch

WATCHDOG_SEC = 120
PIECES = 2  # micro-batches per update: accumulation on every process
# What each rank may have. "-" has no rows at all, ever.
ROLES = {1: ["asr st mt"], 2: ["mt", "asr st"], 4: ["mt", "asr", "-", "st"]}
# What the rows of a step are: some updates hold asr rows only, some no audio at all.
TASKS_OF_STEP = ["asr st mt", "asr", "mt", "asr st", "asr mt"]


class UnlikeRows(StepDataset):
    """Deals the rows of a step out by task instead of by cost."""

    def __init__(self, plan, loader, processes):
        super().__init__(plan, loader, processes.rank, processes.world_size, 1e9)
        self.mine = ROLES[processes.world_size][processes.rank].split()
        self.by_task = {}
        for number, manifest in enumerate(plan.manifests):
            for i in range(len(manifest)):
                self.by_task.setdefault(manifest.row(i).task, []).append((number, i))

    def __getitem__(self, step):
        rng = np.random.default_rng(step)
        pieces = [[] for _ in range(PIECES)]
        for task in TASKS_OF_STEP[step % len(TASKS_OF_STEP)].split():
            chosen = rng.permutation(len(self.by_task[task]))[:3]
            for k, i in enumerate(chosen):
                if task in self.mine:
                    pieces[k % PIECES].append(self.by_task[task][i])
        batches, skipped = [], []
        for piece in pieces:
            examples = load_rows(self.plan.manifests, piece, self.loader, step, skipped)
            batches.append(collate(examples) if examples else None)
        return batches, skipped


class Recorder:
    """Runs a loop and keeps what each update did."""

    def __init__(self, loop):
        self.loop, self.llm_moved, self.norms = loop, [], []
        self.update, loop._update = loop._update, self._update

    def _llm_bits(self):
        state = self.loop.optimizer.state
        parameters = list(self.loop.model.llm.parameters())
        slots = [v for p in parameters if p in state for v in state[p].values()]
        return digest(parameters + slots)

    def _update(self, wrapped, batches):
        before = self._llm_bits()
        out = self.update(wrapped, batches)
        self.llm_moved.append(self._llm_bits() != before)
        self.norms.append(out["norms"])
        return out

    def save(self, path):
        self.loop.run()
        model, optimizer = self.loop.model, self.loop.optimizer
        slots = {
            name: optimizer.state[p] for name, p in model.named_parameters() if p in optimizer.state
        }
        torch.save(
            {
                "weights": {name: p.detach().clone() for name, p in model.named_parameters()},
                "optimizer": slots,
                "llm_moved": self.llm_moved,
                "norms": self.norms,
                "history": self.loop.journal.history,
                "layers": model.alignment and model.alignment.layers,
            },
            path,
        )


VARIANTS = {
    "all": {},
    "activation": dict(llm_tasks=["st", "mt"]),
    # The first of two processes, who chooses the layers, never has a row to align.
    "alignment": dict(
        max_steps=10,
        llm_tasks=["st", "mt"],
        alignment={
            "layers": "adaptive",
            "weight": 1.0,
            "detach_text": False,
            "adapt_interval": 5,
            "max_layers": 3,
        },
    ),
    "lora": dict(
        max_steps=10,
        llm_tasks=["st", "mt"],
        task_weights={"asr": 0.5, "st": 2.0},
        trainable={"encoder": "last:3", "adapter": "all", "llm": "lora"},
        model={"llm": {"lora": {"r": 4, "alpha": 8}, "gradient_checkpointing": True}},
    ),
}


@pytest.fixture(scope="module")
def runs(config_values, manifests, tmp_path_factory):
    """``runs(variant, world_size)``: what each rank had in the end; run once."""
    done = {}

    def get(variant, world_size):
        if (variant, world_size) not in done:
            root = tmp_path_factory.mktemp(f"{variant}{world_size}")
            intervals = dict(max_steps=20, valid_interval=10, save_interval=10, log_interval=5)
            data = dict(train=manifests, valid=manifests[:1], warmup_steps=4)
            values = config_values(**{**data, **intervals, **VARIANTS[variant]})

            def train(processes):
                loop = make_loop(values, root, processes, UnlikeRows, dropout=False)
                Recorder(loop).save(root / f"rank{processes.rank}.pt")

            fork_group(train, world_size, root, WATCHDOG_SEC)
            done[variant, world_size] = [
                torch.load(root / f"rank{rank}.pt") for rank in range(world_size)
            ]
        return done[variant, world_size]

    return get


@pytest.mark.parametrize(
    ("variant", "world_size"),
    [
        ("all", 2),
        ("all", 4),
        ("activation", 2),
        ("activation", 4),
        ("lora", 2),
        ("alignment", 4),
    ],
)
def test_many_processes_train_as_one(runs, variant, world_size):
    (one,), many = runs(variant, 1), runs(variant, world_size)
    for rank in many:  # every process ends with the same bits, and says the same
        assert digest(rank["weights"].values()) == digest(many[0]["weights"].values())
        for key in ("norms", "history", "llm_moved", "layers"):
            assert rank[key] == many[0][key], key
    for a, b in zip(one["norms"], many[0]["norms"], strict=True):
        assert a == pytest.approx(b, rel=1e-4), "clipping sees another gradient"
    assert [h["step"] for h in one["history"]] == [h["step"] for h in many[0]["history"]]
    for a, b in zip(one["history"], many[0]["history"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    compared = total = 0
    for name, weight in one["weights"].items():
        other = many[0]["weights"][name]
        if name not in one["optimizer"]:
            assert torch.equal(weight, other), name
            continue
        # AdamW turns the rounding noise of a gradient that is zero in truth (a key's bias) into
        # whole steps: there is nothing to compare where the gradient is no more than noise.
        real = one["optimizer"][name]["exp_avg_sq"].sqrt() > 1e-5
        compared, total = compared + int(real.sum()), total + weight.numel()
        assert not real.any() or float((weight - other)[real].abs().max()) < 3e-4, name
    assert compared > 0.5 * total, (compared, total)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_rows_of_other_tasks_leave_the_llm_bit_identical(runs, world_size):
    for rank in runs("activation", world_size):
        expected = [TASKS_OF_STEP[s % 5] != "asr" for s in range(len(rank["llm_moved"]))]
        assert rank["llm_moved"] == expected
    for rank in runs("all", world_size):
        assert all(rank["llm_moved"])


def test_updates_without_audio_leave_encoder_and_adapter(runs):
    for world_size in (1, 2, 4):
        for step, norms in enumerate(runs("all", world_size)[0]["norms"]):
            parts = {"llm"} if TASKS_OF_STEP[step % 5] == "mt" else {"encoder", "adapter", "llm"}
            assert set(norms) == parts | {"total"}


def test_dealing_by_cost_trains_as_one(config_values, manifests, tmp_path):
    values = config_values(train=manifests, valid=manifests, max_steps=4, micro_cost=60)
    losses = {}
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)

        def train(processes, folder=folder):
            loop = make_loop(values, folder, processes, dropout=False)
            loop.run()
            torch.save(loop.journal.history, folder / f"rank{processes.rank}.pt")

        folder.mkdir()
        fork_group(train, world_size, folder, WATCHDOG_SEC)
        losses[world_size] = [
            [h["loss"] for h in torch.load(folder / f"rank{rank}.pt")] for rank in range(world_size)
        ]
    (one,), (first, second) = losses[1], losses[2]
    assert first == second
    assert one == pytest.approx(first, rel=1e-3)


def test_parameters_that_no_forward_uses(config_values, manifests, tmp_path):
    """An embedding for masked spans, an expert nobody chose: no hang, no crash, no movement."""
    values = config_values(train=manifests, valid=[], max_steps=4)

    def train(processes):
        loop = make_loop(values, tmp_path, processes, UnlikeRows, dropout=False)
        loop.model.encoder.mask_embedding = torch.nn.Parameter(torch.ones(3))
        other = Loop(
            loop.model,
            loop.config,
            loop.dataset,
            loop.validation,
            loop.dummy,
            processes,
            tmp_path,
            tensorboard=False,
        )
        other.run()
        assert torch.equal(loop.model.encoder.mask_embedding, torch.ones(3))
        assert other.step == 4

    fork_group(train, 2, tmp_path, WATCHDOG_SEC)


@pytest.mark.parametrize("kind", ["sensevoice", "whisper", "transformers"])
def test_every_parameter_of_an_encoder_gets_a_gradient(make_model, kind):
    model = make_model(encoder=kind).train()
    model.set_trainable({"encoder": "all", "adapter": "all", "llm": "all"})
    assert unused_parameters(model, dummy_batch(model)) == []
    for parameter in model.parameters():
        assert parameter.grad is None


def test_rows_left_out_are_counted_over_all_processes(config_values, manifests, tmp_path):
    values = config_values(train=manifests, valid=[], max_steps=3, save_interval=3)

    class Unreadable(UnlikeRows):
        def __getitem__(self, step):
            batches, _ = super().__getitem__(step)
            return [None] * len(batches), [f"row{self.rank}: no such file"] * (1 + self.rank)

    def train(processes):
        loop = make_loop(values, tmp_path, processes, Unreadable, dropout=False)
        loop.run()
        assert loop.journal.left_out() == 9  # every process can tell

    fork_group(train, 2, tmp_path, WATCHDOG_SEC)
    assert json.loads((tmp_path / ".finished").read_text())["left_out"] == 9
    assert torch.load(tmp_path / "checkpoint.pth")["skipped"] == 9


def test_a_process_that_fails_ends_the_run_under_the_watchdog(tmp_path):
    """The watchdog itself: a rank that raises must not leave the others waiting unseen."""

    def train(processes):
        if processes.rank == 1:
            raise SystemExit(3)
        processes.barrier()

    codes = fork_all([with_group(train, rank, 2, tmp_path / "store") for rank in range(2)], 20)
    assert codes[1] == 3 and codes[0] != 0
