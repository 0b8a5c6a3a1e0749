"""Jobs that wait for each other: order, failures, and what a signal does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from experiment import gpu_groups
from experiment_jobs import Job, JobsFailed, Runner

LOCAL = Path(__file__).resolve().parents[1] / "local"


def job(folder, name, script="true", after=(), work=1.0):
    return Job(name, ["bash", "-c", script], folder / f"{name}.log", tuple(after), work)


def test_jobs_wait_for_others_and_run_beside_each_other(tmp_path, capsys):
    note = f'echo "$0" >> {tmp_path}/order'
    jobs = [
        Job(name, ["bash", "-c", f"{wait}{note}", name], tmp_path / f"{name}.log", after, work)
        for name, after, work, wait in (
            ("a", (), 1.0, "sleep 0.2; "),
            ("b", ("a",), 1.0, ""),
            ("c", (), 0.5, ""),
            ("d", ("b", "c"), 1.0, ""),
        )
    ]
    Runner(jobs, workers=2).run()
    assert (tmp_path / "order").read_text().split() == ["c", "a", "b", "d"]
    told = capsys.readouterr().out
    assert "[4/4] d: 0m00s, 0m00s of CPU" in told and "left] " in told


def test_the_longest_chain_goes_first(tmp_path):
    note = f'echo "$0" >> {tmp_path}/order'
    jobs = [
        Job(name, ["bash", "-c", note, name], tmp_path / f"{name}.log", after, work)
        for name, after, work in (("short", (), 2.0), ("first", (), 1.0), ("then", ("first",), 5.0))
    ]
    Runner(jobs, workers=1).run()
    assert (tmp_path / "order").read_text().split() == ["first", "then", "short"]


def test_cpu_time_is_that_of_the_jobs_own_children_too(tmp_path):
    burn = "python3 -c 'import time\nwhile time.process_time() < 0.3: pass'; true"
    runner = Runner([job(tmp_path, "burns", burn)], workers=1)
    runner.run()
    assert 0.3 <= runner.cpu_sec < 5


def test_what_waits_for_a_failed_job_does_not_run_and_the_rest_does(tmp_path):
    jobs = [
        job(tmp_path, "bad", "echo the reason; exit 3"),
        job(tmp_path, "waits", f"touch {tmp_path}/no", after=["bad"]),
        job(tmp_path, "other", f"touch {tmp_path}/yes"),
    ]
    with pytest.raises(JobsFailed) as caught:
        Runner(jobs, workers=1).run()
    assert "bad failed; the end of" in str(caught.value) and "the reason" in str(caught.value)
    assert "1 of 3 failed, 1 wait for those" in str(caught.value)
    assert (tmp_path / "yes").exists() and not (tmp_path / "no").exists()


def test_one_thread_each_beside_others_and_a_gpu_each(tmp_path):
    show = 'echo "${OMP_NUM_THREADS:-} ${CUDA_VISIBLE_DEVICES:-}"'
    Runner([job(tmp_path, "a", show)], workers=2).run()
    assert (tmp_path / "a.log").read_text().split()[0] == "1"
    jobs = [job(tmp_path, name, f"sleep 0.2; {show}") for name in ("b", "c")]
    Runner(jobs, workers=2, gpus=["4", "7"]).run()
    found = {(tmp_path / f"{name}.log").read_text().split()[-1] for name in ("b", "c")}
    assert found == {"4", "7"}


@pytest.mark.parametrize(
    ("given", "there", "ngpu", "groups"),
    [
        ("", 0, 0, []),
        ("", 4, 1, ["0", "1", "2", "3"]),
        ("", 5, 2, ["0,1", "2,3"]),  # the last one is too few for a training
        ("4,7", 8, 1, ["4", "7"]),
    ],
)
def test_each_training_has_gpus_of_its_own(given, there, ngpu, groups, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    assert gpu_groups(ngpu) == groups


def test_a_signal_reaches_the_jobs_which_end_in_their_own_way(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(LOCAL)!r})\n"
        "from pathlib import Path\n"
        "from experiment_jobs import Job, Runner, Stopped\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "save = f'trap \"touch {folder}/saved; exit 1\" TERM; touch {folder}/up; sleep 60 & wait'\n"
        "jobs = [Job('a', ['bash', '-c', save], folder / 'a.log'),\n"
        "        Job('b', ['touch', str(folder / 'b')], folder / 'b.log', ('a',))]\n"
        "try:\n    Runner(jobs, 2).run()\nexcept Stopped:\n    sys.exit(143)\n"
    )
    process = subprocess.Popen(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": str(LOCAL.parent)}
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert (tmp_path / "saved").exists() and not (tmp_path / "b").exists()
    # The child that the job left behind is gone as well.
    left = subprocess.run(["pgrep", "-f", "touch .*up; sleep 60"], capture_output=True, text=True)
    assert str(tmp_path) not in left.stdout
