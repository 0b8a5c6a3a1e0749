"""One call of `experiment.py`: where phases are trained, what they share, which jobs that takes."""

from __future__ import annotations

import fnmatch
import os
import subprocess
from pathlib import Path

from experiment_conf import Plan, Scale, chosen
from experiment_jobs import Job
from experiment_measures import measure_jobs
from experiment_plan import PhaseRun, arm_phases
from experiment_results import LID_FOLDERS
from experiment_scores import sentence_of

DIGEST = ".digest"  # in a phase's folder: what it is a run of
RECIPE = "./part.sh"
DECODE_WORK = 40.0  # of one decoding, in updates; for the order of jobs and the time left


class Run:
    """One call: an experiment or several, at one scale.

    Args:
        plan: conf/experiments.yaml.
        names: Of the experiments.
        scale: Name of the scale.
        expdir: Folder of experiments.
        dumpdir: Folder of formatted data.
        ngpu: GPUs of one training; 0 is the CPU.
    """

    def __init__(
        self, plan: Plan, names: list[str], scale: str, expdir: Path, dumpdir: Path, ngpu: int
    ):
        self.plan, self.names, self.scale_name = plan, names, scale
        self.scale: Scale = chosen(plan.scales, scale, "--scale: no scale")
        self.expdir, self.dumpdir, self.ngpu = expdir, dumpdir, ngpu
        self.out = expdir / "experiments" / scale
        experiments = [chosen(plan.experiments, n, "--experiment: no experiment") for n in names]
        wanted = {arm for experiment in experiments for arm in experiment.arms}
        self.lids = {
            arm: [
                lid
                for lid in LID_FOLDERS
                if any(arm in e.arms and lid in e.lids(arm) for e in experiments)
            ]
            for arm in plan.arms
            if arm in wanted
        }
        # Seed -> arm -> its phases. Which manifests they train on is the recipe's business.
        self.runs: dict[int, dict[str, list[PhaseRun]]] = {
            seed: {
                arm: arm_phases(Path("conf"), self.scale, arm, plan.arms[arm], seed, ["-"], ["-"])
                for arm in self.lids
            }
            for seed in self.scale.seeds
        }

    def exp(self, seed: int) -> Path:
        """Folder of all arms of one seed."""
        return self.expdir / f"{self.scale_name}_seed{seed}"

    def folder(self, seed: int, run: PhaseRun) -> Path:
        """Folder of a phase, or the link to an equal one."""
        return self.exp(seed) / run.arm / f"phase{run.phase}"

    def recipe(self, seed: int, run: PhaseRun, stage: int, *more: str) -> list[str]:
        """The command that runs one stage of one phase."""
        arm = self.plan.arms[run.arm]
        settings = [setting for setting in run.settings]
        return [
            RECIPE, "--corpora", self.scale.corpora, "--model", self.scale.model,
            "--curriculum", arm.curriculum, "--part_tag", self.exp(seed).name,
            "--part_exp", str(self.exp(seed) / run.arm), "--phase", run.phase,
            "--expdir", str(self.expdir), "--dumpdir", str(self.dumpdir),
            "--stage", str(stage), "--stop_stage", str(stage), "--ngpu", str(self.ngpu),
            "--part_args", " ".join(settings), *more,
        ]  # fmt: skip

    def prepare(self) -> None:
        """Stages 1 to 10, for the data and the pre-trained parts.

        Raises:
            ValueError: They failed.
        """
        command = [
            RECIPE, "--corpora", self.scale.corpora, "--model", self.scale.model,
            "--expdir", str(self.expdir), "--dumpdir", str(self.dumpdir), "--stop_stage", "10",
        ]  # fmt: skip
        log = self.out / "logs" / "prepare.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"data and pre-trained parts; log: {log}", flush=True)
        with log.open("w") as file:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        if done.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise ValueError(f"stages 1 to 10 failed; the end of {log}:\n{tail}")

    def test_sets(self) -> list[str]:
        """Test sets of the scale, formatted.

        Raises:
            ValueError: There are none.
        """
        raw = self.dumpdir / "raw"
        names = sorted(path.parent.name for path in raw.glob("*/utt2task"))
        globs = self.scale.test_sets.split()
        found = [name for name in names if any(fnmatch.fnmatch(name, glob) for glob in globs)]
        if not found:
            raise ValueError(f"no test set in {raw} fits {self.scale.test_sets!r} (test_sets)")
        return found

    def check_sets(self, test_sets: list[str]) -> None:
        """Finds before anything is trained what else would end the last step.

        Raises:
            ValueError: The dev set is missing, or the pattern of sentences does not fit.
        """
        raw = self.dumpdir / "raw"
        if not (raw / self.scale.dev_set).is_dir():
            raise ValueError(f"{raw / self.scale.dev_set} is missing (dev_set)")
        for name in test_sets:
            with (raw / name / "utt2task").open(encoding="utf-8") as lines:
                sentence_of(lines.readline().split()[0], self.scale.sentence)

    def share(self) -> dict[int, dict[str, PhaseRun]]:
        """Makes the phases' folders, and links where an equal phase has one.

        Returns:
            Seed -> digest -> the phase that is to be trained.

        Raises:
            ValueError: A folder holds a run of other settings.
        """
        owners: dict[int, dict[str, PhaseRun]] = {}
        for seed, arms in self.runs.items():
            owners[seed] = own = {}
            found = {
                path.read_text().strip(): path.parent
                for path in sorted(self.exp(seed).glob(f"*/phase*/{DIGEST}"))
                if not path.parent.is_symlink() and (path.parent / "config.yaml").exists()
            }
            for run in (run for runs in arms.values() for run in runs):
                folder = self.folder(seed, run)
                home = found.setdefault(run.digest, folder)
                if home == folder:
                    own[run.digest] = run
                    _claim(folder, run.digest)
                else:
                    _link(folder, home)
                    own.setdefault(run.digest, _owner(run, home))
        return owners

    def jobs(self, test_sets: list[str]) -> list[Job]:
        """Training, decoding and measuring that has not been done."""
        jobs: dict[str, Job] = {}
        owners = self.share()
        for seed, owned in owners.items():
            for run in (run for runs in self.runs[seed].values() for run in runs):
                owner = owned[run.digest]
                name = self._name(seed, owner)
                if name not in jobs and not (self.folder(seed, owner) / ".finished").exists():
                    if owner.arm not in self.plan.arms:
                        raise ValueError(
                            f"{self.folder(seed, owner)} holds an equal phase, half trained, of "
                            "an arm that conf/experiments.yaml does not have: remove it"
                        )
                    after = self._train_name(seed, run.before, owned)
                    log = self._log(seed, owner.arm, f"phase{run.phase}")
                    command = self.recipe(seed, owner, 11)
                    steps = run.config["max_steps"]
                    jobs[name] = Job(
                        name, command, log, tuple(n for n in after if n in jobs), steps
                    )
            for arm, runs in self.runs[seed].items():
                last = runs[-1]
                if not self._decoded(seed, last, test_sets):
                    lids = self.lids[arm]
                    command = self.recipe(
                        seed, last, 12, "--inference_nj", "1", "--lid", " ".join(lids),
                        "--test_sets", " ".join(test_sets),
                    )  # fmt: skip
                    after = self._train_name(seed, last, owned)
                    job = Job(
                        f"seed {seed}: {arm}, decoding", command, self._log(seed, arm, "decode"),
                        tuple(n for n in after if n in jobs), DECODE_WORK * len(lids),
                    )  # fmt: skip
                    jobs[job.name] = job
        trained = {
            f"{seed} {digest}": self._name(seed, owner)
            for seed, owned in owners.items()
            for digest, owner in owned.items()
            if self._name(seed, owner) in jobs
        }
        for name in self.names:
            for job in measure_jobs(self, self.plan.experiments[name], test_sets, trained):
                jobs.setdefault(job.name, job)
        return list(jobs.values())

    def _train_name(self, seed: int, run: PhaseRun | None, owned: dict) -> list[str]:
        if run is None:
            return []
        return [self._name(seed, owned[run.digest])]

    def _name(self, seed: int, owner: PhaseRun) -> str:
        return f"seed {seed}: {owner.arm}, phase {owner.phase}"

    def _log(self, seed: int, arm: str, what: str) -> Path:
        return self.out / "logs" / f"seed{seed}_{arm}_{what}.log"

    def _decoded(self, seed: int, last: PhaseRun, test_sets: list[str]) -> bool:
        """Whether all sets of a finished phase have hypotheses that are younger than it."""
        folder = self.folder(seed, last)
        model = folder / "latest.pth"
        if not (folder / ".finished").exists():
            return False
        texts = [
            folder / f"{self.decode_name()}{LID_FOLDERS[lid]}" / name / "text"
            for lid in self.lids[last.arm]
            for name in test_sets
        ]
        return all(t.exists() and t.stat().st_mtime > model.stat().st_mtime for t in texts)

    def decode_name(self) -> str:
        """Name of the decode folders, as part.sh makes it."""
        own = Path("conf/decode") / f"{self.scale.corpora.split()[0]}.yaml"
        return f"decode_{own.stem if own.exists() else 'greedy'}_latest"


def _claim(folder: Path, digest: str) -> None:
    """Makes a phase's folder; raises ValueError if it holds a run of other settings."""
    if folder.is_symlink():
        folder.unlink()
    mark = folder / DIGEST
    if folder.exists() and (folder / "config.yaml").exists():
        if not mark.exists() or mark.read_text().strip() != digest:
            raise ValueError(
                f"{folder} holds a run of other settings than conf/ has now: remove {folder} and "
                "the phases that start from it, or take another --expdir"
            )
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(digest + "\n")


def _link(folder: Path, home: Path) -> None:
    """Makes `folder` a link to `home`; raises ValueError if it holds a run."""
    if folder.is_symlink():
        folder.unlink()
    elif (folder / "config.yaml").exists():
        raise ValueError(
            f"{folder} holds a run of other settings than conf/ has now; with these it is equal "
            f"to {home}: remove it"
        )
    elif folder.exists():
        (folder / DIGEST).unlink(missing_ok=True)
        folder.rmdir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(os.path.relpath(home, folder.parent))


def _owner(run: PhaseRun, home: Path) -> PhaseRun:
    """The phase under the name of the arm whose folder holds it."""
    return PhaseRun(home.parent.name, run.phase, run.settings, run.config, run.digest, run.before)
