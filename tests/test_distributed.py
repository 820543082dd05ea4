"""Several processes that train and evaluate together, with gloo on a CPU. One test starts them by torchrun itself."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from misc.make_toy_voc import make_toy_voc
from tests.disturbed import curves as points
from tests.disturbed import state
from tests.run_server import the_runs
from tests.same import same
from utils.visdom_server import port_in_use

ROOT = Path(__file__).resolve().parent.parent
N_IMAGES = 9  # with 4 a step, the last has a single one
TRAIN = ["train", "--voc-data-dir=toy", "--model=tiny", "--min-size=96", "--max-size=96", "--num-workers=0",
         "--test-num-workers=0", "--visdom=off", "--device=cpu", "--plot-every=1", "--batch-size=4"]  # fmt: skip
FROZEN = ["--pretrained-path=backbone.pth", "--epoch=1", "--lr=0.01"]  # with ImageNet weights BatchNorm is frozen


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with pictures of one size, one of them without boxes, weights for the backbone, and two runs of `one`
    process to compare with: `frozen`, and `learns`, whose BatchNorm does."""
    folder = tmp_path_factory.mktemp("home")
    make_toy_voc(folder / "toy", n_train=40, n_val=5, size=96)
    names = folder / "toy/ImageSets/Main/train.txt"
    square = [n for n in names.read_text().split()
              if Image.open(folder / f"toy/JPEGImages/{n}.jpg").size == (96, 96)]  # fmt: skip
    names.write_text("\n".join(square[:N_IMAGES]) + "\n")
    xml = folder / f"toy/Annotations/{square[4]}.xml"
    xml.write_text(re.sub("<object>.*</object>", "", xml.read_text(), flags=re.DOTALL))
    together(folder, 1, *TRAIN, "--name=learns", "--epoch=1", "--lr=0.01")
    torch.save(last(folder, "learns")["model"], folder / "backbone.pth")
    together(folder, 1, *TRAIN, *FROZEN, "--name=frozen")
    return folder


def begin(home, n, *words, faults=None, machines=None):
    """Start `n` processes; a list of `Run`.

    Args:
        faults: rank → what `run_server.arm` takes.
        machines: a folder for each process, as if it were alone on a machine of its own; `home` is not used then.
    """
    runs, port = [], next(port for port in range(29500, 30500) if not port_in_use(port))
    for rank in range(n):
        own = {"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1} if machines else {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": n}
        own |= {"RANK": rank, "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in own.items():
                patch.setenv(name, str(value))
            folder = machines[rank] if machines else home
            runs.append(the_runs().start(folder, words, (faults or {}).get(rank)))
    return runs


def together(home, n, *words, faults=None, code=0):
    """The same to their end, where each has the exit code `code`; what they printed."""
    runs = begin(home, n, *words, faults=faults)
    codes = [run.wait() for run in runs]
    assert codes == [code] * n, "\n".join(run.text() for run in runs)
    return [run.text() for run in runs]


def last(home, name):
    return state(home / f"runs/{name}/last.pth")


def curves(home, name):
    """(window, line) → its values by step, but for those that a clock decides."""
    found = {}
    for window, line, _, _, y in points(home / f"runs/{name}"):
        found.setdefault((window, line), []).append(y)
    return found


def assert_same_parameters(home, one, other):
    """Two runs' are equal within rounding."""
    parameters = [last(home, name)["model"] for name in (one, other)]
    for name, value in parameters[0].items():
        torch.testing.assert_close(parameters[1][name], value, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")


def assert_close(home, one, other):
    """Likewise, and the curves too."""
    assert_same_parameters(home, one, other)
    shown = [curves(home, name) for name in (one, other)]
    assert shown[0].keys() == shown[1].keys()
    for name, values in shown[0].items():
        np.testing.assert_allclose(np.array(shown[1][name], float), np.array(values, float), rtol=2e-3, atol=1e-5,
                                   err_msg=str(name))  # fmt: skip


@pytest.mark.parametrize(("n", "accumulate"), [(1, 2), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_the_same_updates_however_they_are_shared_out(home, n, accumulate):
    """Three of them; in the last, with one image, some processes have none."""
    name = f"frozen-{n}-{accumulate}"
    said = together(home, n, *TRAIN, *FROZEN, f"--name={name}", f"--accumulate={accumulate}")
    assert "steps      3 steps of 4 images in" in said[0]
    assert_close(home, "frozen", name)
    assert last(home, name)["other_info"]["best_map"] == pytest.approx(last(home, "frozen")["other_info"]["best_map"])
    assert said[1:] == [""] * (n - 1)


@pytest.mark.gpu
@pytest.mark.parametrize("n", [2, 4])
def test_the_same_updates_on_several_gpus(home, n):
    """Through NCCL, and evaluated there too."""
    if torch.cuda.device_count() < n:
        pytest.skip(f"fewer than {n} CUDA devices")
    words = [*(word for word in [*TRAIN, *FROZEN] if word != "--device=cpu"), "--device=cuda", "--amp=off"]
    together(home, 1, *words, "--name=one-gpu", "--overwrite")
    together(home, n, *words, f"--name=gpus-{n}")
    assert_close(home, "one-gpu", f"gpus-{n}")


def test_batch_norm_takes_the_images_of_all_processes(home):
    words = [*TRAIN, "--epoch=1", "--lr=0.01", "--max-iter=2"]  # the third would take its one image twice
    together(home, 1, *words, "--name=two-steps")
    together(home, 2, *words, "--name=synchronized", "--sync-bn")
    assert_close(home, "two-steps", "synchronized")
    together(home, 2, *words, "--name=apart")
    with pytest.raises(AssertionError):
        assert_close(home, "two-steps", "apart")


def test_an_evaluation_is_shared_out_and_nothing_twice(home):
    words = ["eval", "--load-path=runs/frozen/last.pth", "--voc-data-dir=toy", "--test-num-workers=0", "--device=cpu",
             "--score-thresh=0.01"]  # fmt: skip
    files = {}
    for n in (1, 2, 4):  # of five pictures
        together(home, n, *words, f"--out=eval{n}.json", f"--save-detections=found{n}.json")
        files[n] = [(home / f"{name}{n}.json").read_text() for name in ("eval", "found")]
    assert json.loads(files[1][0])["n_images"] == 5
    assert len(json.loads(files[1][1])) > 5
    assert files[1] == files[2] == files[4]


def test_the_alternating_schedule(home):
    """Whose parts leave half of the network without a gradient; proposals are shared out too."""
    words = [*TRAIN, *FROZEN, "--schedule=alternating", "--max-iter=2"]
    together(home, 1, *words, "--name=alternating1")
    together(home, 2, *words, "--name=alternating2")
    for part in range(1, 5):
        one, two = (state(home / f"runs/alternating{n}/step{part}.pth")["model"] for n in (1, 2))
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def reference(home):
    """A run of two processes, not disturbed."""
    together(home, 2, *LONG, "--name=reference")
    return last(home, "reference")


LONG = [*TRAIN, "--epoch=4", "--lr=0.01", "--use-drop", "--save-every=5", "--accumulate=2"]


def assert_goes_on_to(home, name, reference):
    together(home, 2, *LONG, f"--name={name}", "--resume=auto")
    own = last(home, name)
    for part in ("model", "optimizer", "meters", "rng"):
        assert same(own[part], reference[part]), part
    assert own["other_info"]["best_map"] == reference["other_info"]["best_map"]
    assert curves(home, name) == curves(home, "reference")


def test_all_predict_with_what_is_saved(home):
    """Though each process has BatchNorm's statistics of its own images: the first one's are in the checkpoint."""
    words = [*TRAIN, "--epoch=1", "--max-iter=2", "--lr=0.01", "--schedule=alternating", "--name=learns-alternating"]
    together(home, 2, *words)
    alone = ["propose", "--voc-data-dir=toy", "--val-split=train", "--test-num-workers=0", "--device=cpu"]
    together(home, 1, *alone, "--load-path=runs/learns-alternating/step1.pth", "--out=alone.npz")
    shared, alone = (np.load(home / path) for path in ("runs/learns-alternating/step1_proposals.npz", "alone.npz"))
    assert shared.files == alone.files
    assert all(np.array_equal(shared[name], alone[name]) for name in shared.files)


def has_made(home, name, n):
    """Whether the run's log has `n` steps: it shows each."""
    try:
        return len(curves(home, name).get(("total_loss", None), ())) >= n
    except Exception:  # it is not there yet
        return False


def test_a_killed_process_ends_all_and_loses_nothing(home, reference):
    runs = begin(home, 2, *LONG, "--name=killed")
    runs[0].wait_for(lambda: has_made(home, "killed", 3))
    runs[1].kill()
    assert runs[0].wait() == 2, runs[0].text()
    assert "another of the 2 processes ended" in runs[0].text().splitlines()[-1]
    stopped = int(re.search(r"stopped after step (\d+) of 12", runs[0].text())[1])
    assert last(home, "killed")["other_info"]["step"] == stopped
    assert_goes_on_to(home, "killed", reference)


def test_they_stop_together_after_the_same_step(home, reference):
    runs = begin(home, 2, *LONG, "--name=stopped")
    runs[0].wait_for(lambda: has_made(home, "stopped", 3))
    runs[1].send(signal.SIGTERM)  # one alone
    assert [run.wait() for run in runs] == [143, 143], runs[0].text()
    assert "stopped after step" in runs[0].text()
    assert "stopped after step" not in runs[1].text()
    assert_goes_on_to(home, "stopped", reference)


def test_a_run_goes_on_with_another_number_of_processes(home):
    words = [*TRAIN, *FROZEN, "--name=grown"]
    together(home, 1, *words, "--max-iter=2")
    together(home, 4, "train", "--resume=runs/grown", "--max-iter=3")
    assert_same_parameters(home, "frozen", "grown")


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_loss_of_one_process_that_is_not_finite(home, policy):
    """All leave the step out; the line names the pictures of that process alone."""
    faults = {1: {"nan": "inputs", "step": 2}}
    name = f"nan-{policy}"
    words = [*TRAIN, *FROZEN, f"--name={name}", f"--on-nonfinite={policy}"]
    said = together(home, 2, *words, faults=faults, code=2 if policy == "stop" else 0)
    record = home / f"runs/{name}/nonfinite/step-00000002-process1.json"
    assert [file.name for file in record.parent.glob("*.json")] == [record.name]
    images = json.loads(record.read_text())["images"]
    assert len(images) == 2
    assert "step 2: the loss is not finite" in said[0]
    assert f"images {', '.join(images)}; the batch is kept in runs/{name}/nonfinite/{record.name}" in said[0]
    assert said[1] == ""
    assert last(home, name)["other_info"]["step"] == (1 if policy == "stop" else 3)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--batch-size=1"], "--batch-size=1: is the images of a step of all 2 processes together; give at least 2"),
        (["--epok=1"], "--epok: unknown option; did you mean --epoch?"),
        (["--voc-data-dir=nowhere"], "nowhere"),
        (["--name=learns"], "--name=learns: runs/learns has checkpoints"),
        (["--device=cuda"], "2 processes on a machine with 0 GPUs: start 1 there"),
    ],
)
def test_a_mistake_is_told_once(home, words, line):
    if line.startswith("2 processes") and torch.cuda.is_available():
        pytest.skip("there are GPUs")
    runs = begin(home, 2, *TRAIN, *words)
    assert runs[0].wait() == 2
    assert runs[1].wait() in (1, 2)
    errors = [text for run in runs for text in run.text().splitlines() if text.startswith("error: ")]
    assert len(errors) == 1, errors
    assert line in errors[0]
    assert "Traceback" not in runs[0].text() + runs[1].text()


def test_machines_that_see_other_data_are_told(home, tmp_path):
    shutil.copytree(home / "toy", tmp_path / "toy")
    names = tmp_path / "toy/ImageSets/Main/train.txt"
    names.write_text("\n".join(names.read_text().split()[:-1]))
    runs = begin(None, 2, *TRAIN, "--name=other", machines=[home, tmp_path])
    assert [run.wait() for run in runs] == [2, 2]
    assert "the processes don't begin alike: the pictures of process 1 " in runs[0].text().splitlines()[-1]


@pytest.mark.parametrize("words", [["predict", "--load-path=a", "--image=b"], ["models"], ["check"]])
def test_other_commands_are_done_by_one(home, words):
    runs = begin(home, 2, *words)
    assert [run.wait() for run in runs] == [2, 2]
    text = "".join(run.text() for run in runs)
    assert text == f"error: {words[0]}: is done by one process; start it with python in place of torchrun\n"


def test_torchrun_starts_a_killed_worker_again_and_the_run_goes_on(home, reference):
    """As a user starts it. The worker is killed after five steps; `last.pth` has them, or those of the last save."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    run = subprocess.Popen(
        [*torchrun, str(ROOT / "train.py"), *LONG, "--name=elastic", "--resume=auto"], cwd=home, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        while not has_made(home, "elastic", 5) and run.poll() is None:
            time.sleep(0.05)
        workers = [pid for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
                   if "train.py" in Path(f"/proc/{pid}/cmdline").read_text()]  # fmt: skip
        assert len(workers) == 2
        os.kill(int(workers[1]), signal.SIGKILL)
        said = run.communicate(timeout=200)[0]
    finally:
        run.terminate()  # it passes that on
        run.wait()
    assert run.returncode == 0, said
    assert "going on from runs/elastic/last.pth" in said
    own = last(home, "elastic")
    for part in ("model", "optimizer", "meters"):
        assert same(own[part], reference[part]), part
    assert curves(home, "elastic") == curves(home, "reference")
