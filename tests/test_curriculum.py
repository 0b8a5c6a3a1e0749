"""Every YAML of conf/ is read for real; model + phase + curriculum + command line merge as said."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from espnet_part.bin import config as command
from espnet_part.config import Config, ModelConfig
from espnet_part.config_check import PARTS
from espnet_part.curriculum import load_curriculum, merge
from espnet_part.decoding import DecodeOptions
from espnet_part.phase_folder import check_sources, digest, write_config
from espnet_part.prompt import TASKS, check_templates
from espnet_part.schema import from_dict, load_yaml, to_dict

CONF = Path(__file__).resolve().parent.parent / "conf"
MODELS, PHASES, CURRICULA, DECODES, BENCHMARKS = (
    sorted((CONF / kind).rglob("*.yaml"))
    for kind in ("model", "phase", "curriculum", "decode", "benchmark")
)


def name(path) -> str:
    return path.stem


def merged(model, curriculum, phase, **more) -> Config:
    return merge(CONF, model, curriculum, phase, ["t"], ["v"], **more)


def test_there_are_yamls():
    assert {p.stem for p in PHASES} == {"0", "1", "2a", "2b", "3"}
    assert {
        "digits",
        "part_2b",
        "part_2b_sensevoice",
        "part_8b",
        "part_2b_lora",
        "part_8b_lora",
    } <= {p.stem for p in MODELS}
    assert {
        "part",
        "two_stage",
        "two_stage_full",
        "two_stage_llm",
        "three_stage_mixed",
        "part_task_activation",
        "part_llm_frozen",
        "part_llm_always",
        "part_no_text",
        "part_ai_sta",
        "finetune",
    } <= {p.stem for p in CURRICULA}
    assert {p.stem for p in DECODES} >= {"greedy"}
    found = {p for p in CONF.rglob("*.yaml")}
    others = {CONF / "prompts.yaml", CONF / "experiments.yaml"}  # test_experiment_plan.py
    known = {*MODELS, *PHASES, *CURRICULA, *DECODES, *BENCHMARKS, *others}
    assert found == known, f"YAMLs that no test reads: {found - known}"


@pytest.mark.parametrize("model", MODELS, ids=name)
@pytest.mark.parametrize("curriculum", CURRICULA, ids=name)
def test_every_curriculum_with_every_model(model, curriculum):
    phases = load_curriculum(CONF, curriculum.stem)["phases"]
    for phase in phases:
        config = merged(model.stem, curriculum.stem, phase)
        assert config.phase == phase and config.max_steps > 0
        assert from_dict(Config, yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config
        assert set(config.trainable) <= set(PARTS) and set(config.tasks) <= set(TASKS)
        if config.model.llm.lora is not None:
            assert config.trainable["llm"] in ("none", "lora")


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_every_layer_of_a_model_is_reached(path):
    """A key under `phases` of a model YAML does something in that phase of some curriculum."""
    for phase, layer in (load_yaml(path).get("phases") or {}).items():
        phases = ("1", "2a", "2b", "3") if phase == "all" else (phase,)
        for one in phases:
            curriculum = "part_text_first" if one == "0" else "part"
            values = to_dict(merged(path.stem, curriculum, one))
            for key, value in layer.items():
                for inner, number in value.items() if isinstance(value, dict) else ():
                    assert values[key][inner] == number, (phase, key, inner)
                later = (load_yaml(path)["phases"].get(one) or {}) if phase == "all" else {}
                if not isinstance(value, dict) and key not in later:
                    assert values[key] == value, (phase, key)


@pytest.mark.parametrize("path", CURRICULA, ids=name)
def test_every_override_of_a_curriculum_is_reached(path):
    plan = load_curriculum(CONF, path.stem)
    for phase, layer in plan["overrides"].items():
        values = to_dict(merged("part_2b", path.stem, phase))
        without = to_dict(merged("part_2b", "part", phase))
        for key, value in layer.items():
            if isinstance(value, dict) and key not in ("task_shares", "task_weights"):
                assert {k: values[key][k] for k in value} == value
            else:
                assert values[key] == value
            assert values[key] != without[key], f"{path.stem}, {phase}: {key} changes nothing"


@pytest.mark.parametrize("path", DECODES, ids=name)
def test_decode_yamls(path):
    assert from_dict(DecodeOptions, load_yaml(path)) is not None


@pytest.mark.parametrize("path", BENCHMARKS, ids=name)
def test_benchmark_yamls(path):
    """Random weights of true sizes: what is built of them is tests/test_benchmark.py's."""
    config = from_dict(ModelConfig, load_yaml(path))
    assert config.encoder.source is None and config.llm.source is None


def test_prompts():
    check_templates(load_yaml(CONF / "prompts.yaml"))


def test_paper_phases():
    """DESIGN, section 4: what trains on what, phase by phase."""
    frozen = {"encoder": "none", "llm": "none"}
    plan = {p: merged("part_2b", "part", p) for p in ("1", "2a", "2b", "3")}
    assert {p: c.trainable for p, c in plan.items()} == {
        "1": {**frozen, "adapter": "all"},
        "2a": {"encoder": "last:8", "adapter": "all", "llm": "none"},
        "2b": {"encoder": "all", "adapter": "all", "llm": "none"},
        "3": {"encoder": "all", "adapter": "all", "llm": "all"},
    }
    assert {p: c.tasks for p, c in plan.items() if p != "3"} == {
        p: ["asr"] for p in ("1", "2a", "2b")
    }
    assert plan["3"].tasks == ["asr", "st", "mt"]
    for phase, config in plan.items():
        assert set(config.lr) == {p for p, s in config.trainable.items() if s != "none"}, phase


# ----- what is laid over what -----


@pytest.fixture
def conf(tmp_path):
    """A copy of conf/ to write into."""
    shutil.copytree(CONF, tmp_path / "conf")

    def write(path, text):
        (tmp_path / "conf" / path).write_text(text)

    write.folder = tmp_path / "conf"
    return write


def test_later_layers_win(conf):
    conf("phase/1.yaml", (CONF / "phase/1.yaml").read_text() + "log_interval: 1\nseed: 1\n")
    model = (CONF / "model/toy.yaml").read_text().partition("phases:")[0]
    conf("model/m.yaml", model + 'phases: {all: {seed: 2, betas: [0.1, 0.2]}, "1": {seed: 3}}\n')
    conf("curriculum/c.yaml", 'phases: ["1"]\noverrides: {"1": {clip_norm: 4}}\n')

    def get(*settings):
        return merge(conf.folder, "m", "c", "1", ["t"], [], settings=list(settings))

    assert (get().log_interval, get().seed, get().betas, get().clip_norm) == (1, 3, [0.1, 0.2], 4)
    conf("curriculum/c.yaml", 'phases: ["1"]\noverrides: {"1": {seed: 4}}\n')
    assert get().seed == 4
    assert get("seed=5").seed == 5
    assert get("seed=5", "seed=6").seed == 6


def test_weights_of_the_data_merge_and_those_of_tasks_do_not(conf):
    three = (CONF / "phase/3.yaml").read_text()
    more = "corpus_weights: {cv_*: 0.5, a: 2}\nlanguage_weights: {yue: 3}\ntemperature: 2\n"
    conf("phase/3.yaml", three + more)
    overrides = "{tasks: [asr, st], task_shares: {st: 3}, corpus_weights: {a: 1, b: 4}}"
    conf("curriculum/c.yaml", f'phases: ["3"]\noverrides: {{"3": {overrides}}}\n')

    def get(*settings):
        return merge(conf.folder, "toy", "c", "3", ["t"], [], settings=list(settings))

    config = get()
    assert config.task_shares == {"st": 3.0} and config.temperature == 2.0
    assert config.corpus_weights == {"cv_*": 0.5, "a": 1.0, "b": 4.0}
    assert config.language_weights == {"yue": 3.0}
    assert get("corpus_weights.b=5").corpus_weights["b"] == 5.0
    assert get("corpus_weights=null").corpus_weights is None
    assert get("language_weights={en-ar: 2}").language_weights == {"yue": 3.0, "en-ar": 2.0}


def test_settings():
    config = merged(
        "toy",
        "part",
        "1",
        settings=[
            "lr.adapter=1e-4",
            "model.adapter.stride=2",
            "spec_augment={time_masks: 3}",
            "speed_perturb=[0.9, 1.1]",
            "model.llm.revision=null",
            "wandb_project=a=b",
        ],
    )
    assert config.lr == {"adapter": 1e-4} and config.model.adapter.stride == 2
    assert config.spec_augment.time_masks == 3 and config.speed_perturb == [0.9, 1.1]
    assert config.model.llm.revision is None and config.wandb_project == "a=b"
    for bad, message in (
        ("lr.adapter", "expected key=value"),
        ("=3", "expected key=value"),
        ("lr.adaptr=1", "unknown key lr.adaptr; did you mean lr.adapter"),
        ("mox_steps=1", "did you mean max_steps"),
        ("max_steps=[", "max_steps=.*is not YAML"),
    ):
        with pytest.raises(ValueError, match=message):
            merged("toy", "part", "1", settings=[bad])


def test_a_setting_of_one_phase_need_not_suit_the_others():
    config = merged("part_2b", "part", "2a", settings=["trainable.encoder=last:4"])
    assert config.trainable["encoder"] == "last:4"


def test_mistakes_are_named(conf):
    for path, text, message in (
        ("curriculum/c.yaml", "phase: ['1']", "unknown key phase; did you mean phases"),
        ("curriculum/c.yaml", "phases: '12'", "phases must be a list"),
        ("curriculum/c.yaml", "phases: []", "phases must be a list"),
        ("curriculum/c.yaml", "phases: ['1', '1']", "different names"),
        ("curriculum/c.yaml", "phases: ['1', '4']", "phase 4: no file .*4.yaml"),
        ("curriculum/c.yaml", "phases: ['1']\ninit: last", "init: found 'last', expected latest"),
        ("curriculum/c.yaml", "phases: ['1']\noverrides: {'3': {seed: 1}}", "overrides of phase"),
        ("curriculum/c.yaml", "phases: ['1']\noverrides: ['3']", "overrides: found"),
        ("curriculum/c.yaml", "phases: ['1']\noverrides: {'1': 3}", "overrides: found"),
        ("curriculum/c.yaml", "- 1", "expected keys and values"),
        ("curriculum/c.yaml", "phases: [", "not valid YAML"),
        # Mistakes in a later phase stop the run before its first.
        (
            "curriculum/c.yaml",
            "phases: ['1', '3']\noverrides: {'3': {max_step: 1}}",
            "phase 3: unknown key max_step; did you mean max_steps",
        ),
        (
            "curriculum/c.yaml",
            "phases: ['1', '3']\noverrides: {'3': {llm_tasks: [asr], trainable: {llm: none}}}",
            "phase 3: llm_tasks is set, but the LLM is frozen",
        ),
    ):
        conf(path, text)
        with pytest.raises(ValueError, match=message):
            merge(conf.folder, "toy", "c", "1", ["t"], [])
    toy = (CONF / "model/toy.yaml").read_text().partition("phases:")[0]
    for layers, message in (
        ("phases: {'2': {seed: 1}}", "phases names '2'; expected one of"),
        ("phases: {'1': [seed]}", "phases: found"),
        ("phases: {'1': {sead: 1}}", "unknown key sead; did you mean seed"),
        ("phase: {'1': {seed: 1}}", "unknown key model.phase"),
    ):
        conf("model/m.yaml", f"{toy}\n{layers}")
        with pytest.raises(ValueError, match=message):
            merge(conf.folder, "m", "part", "1", ["t"], [])
    with pytest.raises(ValueError, match="has phases .* not '2'"):
        merged("toy", "part", "2")
    with pytest.raises(ValueError, match="no file .*digit.yaml.*did you mean digits"):
        merged("digit", "part", "1")


def test_what_a_model_has_for_one_curriculum_is_laid_over_it(conf):
    toy = (CONF / "model/toy.yaml").read_text()
    own = 'curricula: {two_stage_llm: {"2b": {lr: {llm: 7.0e-4}, max_steps: 9}}}'
    conf("model/m.yaml", f"{toy}\n{own}")

    def found(curriculum, settings=()):
        return merge(conf.folder, "m", curriculum, "2b", ["t"], [], settings=list(settings))

    assert found("two_stage_llm").lr["llm"] == 7e-4 and found("two_stage_llm").max_steps == 9
    assert found("two_stage_llm", ["max_steps=3"]).max_steps == 3  # the command line wins
    assert found("two_stage").max_steps == 4 and "llm" not in found("two_stage").lr
    for layers, message in (
        ("curricula: {two_stages: {}}", "no curriculum 'two_stages'; did you mean two_stage?"),
        (
            'curricula: {part: {"4": {}}}',
            "curricula.part: found phase '4', not in ['1', '2a', '2b', '3']",
        ),
        ("curricula: [part]", "curricula: found"),
    ):
        conf("model/m.yaml", f"{toy}\n{layers}")
        with pytest.raises(ValueError, match=re.escape(message)):
            found("part")


def test_a_rate_that_is_not_used_is_told(caplog):
    """Those of the command line only: a curriculum may freeze what its phases have rates for."""
    merged("toy", "part_llm_frozen", "3")
    merged("toy", "part", "3", settings=["lr.llm=1e-5"])
    assert not caplog.messages
    config = merged("toy", "part", "1", settings=["seed=3", "lr.llm=1e-5", "lr={encoder: 1e-4}"])
    assert "llm" not in config.lr and "encoder" not in config.lr
    assert caplog.messages == [
        "phase 1: setting lr.llm=1e-5: lr.llm is not used, for the llm is frozen there",
        "phase 1: setting lr={encoder: 1e-4}: lr.encoder is not used, for the encoder is frozen "
        "there",
    ]


# ----- config.yaml -----


def test_a_started_folder_keeps_its_config(tmp_path):
    config = merged("toy", "part", "1")
    path = write_config(config, tmp_path)
    other = merged("toy", "part", "1", settings=["seed=3", "lr.adapter=1e-2"])
    write_config(other, tmp_path)  # nothing started: the last one holds
    assert load_yaml(path)["seed"] == 3
    (tmp_path / "checkpoint.pth").touch()
    with pytest.raises(ValueError, match=r"lr.adapter, seed differ.*another --part_tag"):
        write_config(config, tmp_path)
    assert load_yaml(path)["seed"] == 3
    assert write_config(other, tmp_path) == path  # the same again
    write_config(config, tmp_path, restart=True)
    assert load_yaml(path)["seed"] == 0


def test_a_config_of_an_earlier_version_goes_on(tmp_path):
    """A key that came later, with its default, is no difference."""
    config = merged("toy", "part", "1")
    path = write_config(config, tmp_path)
    values = load_yaml(path)
    del values["clip_norm"], values["model"]["llm"]["gradient_checkpointing"]
    path.write_text(yaml.safe_dump(values))
    (tmp_path / "checkpoint.pth").touch()
    write_config(config, tmp_path)
    with pytest.raises(ValueError, match="clip_norm differ"):
        write_config(merged("toy", "part", "1", settings=["clip_norm=2"]), tmp_path)


# ----- the parts that a phase was trained with -----


@pytest.fixture
def part(tmp_path):
    """A local folder of a part, one of its files too large to be read whole."""
    folder = tmp_path / "encoder"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text('{"layers": 2, "transformers_version": "5.1.0"}')
    (folder / "sub/vocab.txt").write_text("a b")
    with open(folder / "model.safetensors", "wb") as file:
        file.truncate((1 << 24) + 5)
    return folder


def test_a_digest_is_of_content_only(part, tmp_path):
    before = digest(part)
    for path in part.rglob("*"):
        os.utime(path, (0, 0))
    (part / "config.json").write_text('{"layers": 2, "transformers_version": "5.2.0"}')
    (part / "README.md").touch()
    (part / ".cache").touch()
    assert digest(part) == digest(shutil.copytree(part, tmp_path / "copy")) == before


@pytest.mark.parametrize("change", ["config.json", "sub/vocab.txt", "first", "last", "size", "new"])
def test_a_digest_sees_changes(part, change):
    before = digest(part)
    weights = part / "model.safetensors"
    if change in ("first", "last"):
        with open(weights, "r+b") as file:
            file.seek(0 if change == "first" else (1 << 24) + 4)
            file.write(b"x")
    elif change == "size":
        os.truncate(weights, (1 << 24) + 6)
    else:
        (part / change).write_text("x")
    assert digest(part) != before


def test_a_started_folder_keeps_its_parts(part, tmp_path):
    source = json.dumps({"kind": "sensevoice", "source": str(part)})
    config = merged("toy", "part", "1", settings=[f"model.encoder={source}"])
    phase = tmp_path / "phase1"
    check_sources(phase)
    write_config(config, phase)
    (part / "config.json").write_text("{}")
    write_config(config, phase)  # nothing started: the parts are those of now
    (phase / ".finished").touch()
    check_sources(phase)
    write_config(config, phase)
    (part / "config.json").write_text("{ }")
    for call in (lambda: check_sources(phase), lambda: write_config(config, phase)):
        with pytest.raises(ValueError, match=f"than {part} holds now.*: remove {phase} and"):
            call()
    with pytest.raises(SystemExit, match=f"error: {phase} was trained with other files"):
        command.main(["check", "--folder", str(phase)])
    write_config(config, phase, restart=True)
    check_sources(phase)
    shutil.rmtree(part)
    check_sources(phase)


def test_a_phase_goes_on_with_the_rows_it_began_with(tmp_path):
    manifest = tmp_path / "stats/train"
    manifest.mkdir(parents=True)
    (manifest / "rows.jsonl").write_text("one\n")
    (manifest / "meta.json").write_text("{}")
    conf = Path(__file__).resolve().parents[1] / "conf"
    config = merge(conf, "toy", "part", "1", [str(manifest)], [str(manifest)])
    phase = tmp_path / "phase1"
    write_config(config, phase)
    (manifest / "rows.jsonl").write_text("one\ntwo\n")
    write_config(config, phase)  # nothing started: the rows are those of now
    (phase / "checkpoint.pth").touch()
    (manifest / "meta.json").write_text('{"made_from": "the same, later"}')
    write_config(config, phase)
    (manifest / "rows.jsonl").write_text("two\n")
    with pytest.raises(ValueError, match=f"half trained, on other rows than {manifest} holds now"):
        write_config(config, phase)
    (phase / ".finished").touch()  # what is trained is trained
    write_config(config, phase)


# ----- the command -----


def run(capsys, *words) -> str:
    command.main([*words])
    return capsys.readouterr().out


def test_command(tmp_path, capsys):
    at = ("--conf_dir", str(CONF))
    assert run(capsys, "phases", *at, "--curriculum", "part").split() == ["1", "2a", "2b", "3"]
    assert run(capsys, "init", *at, "--curriculum", "part") == "latest.pth\n"
    merge_words = ("merge", *at, "--model", "toy", "--curriculum", "part", "--phase", "1")
    folder = str(tmp_path / "phase1")
    words = (*merge_words, "--folder", folder, "--train", "a", "b", "--valid", "c")
    out = run(capsys, *words, "--init", "x.pth", "--set", "seed=3", "lr.adapter=1e-4")
    config = from_dict(Config, load_yaml(out.strip()))
    assert (config.train, config.valid, config.init) == (["a", "b"], ["c"], "x.pth")
    assert config.seed == 3 and config.lr == {"adapter": 1e-4}
    with pytest.raises(SystemExit, match="error: unknown key sed; did you mean seed"):
        command.main([*words, "--set", "sed=3"])
    with pytest.raises(SystemExit, match="error: no file"):
        command.main(["phases", *at, "--curriculum", "prat"])
