"""Runs that are disturbed, and those that are not, to compare with: for the tests of what a run survives."""

import torch

from tests.same import same
from utils.event_log import read_events

TRAIN = ["train", "--model=tiny", "--min-size=64", "--max-size=96", "--batch-size=2", "--num-workers=0", "--use-adam",
         "--test-num-workers=0", "--device=cpu", "--voc-data-dir=toy", "--visdom=off", "--lr=0.001", "--plot-every=3",
         "--eval-every=2", "--save-every=2", "--rpn-n-train-post-nms=40", "--roi-n-sample=16"]  # fmt: skip
OF_THE_CLOCK = ("images_per_second", "step_time", "memory")


def words(name="a", *others, epochs=6):
    return [*TRAIN, f"--epoch={epochs}", f"--name={name}", "--resume=auto", *others]


def state(path):
    return torch.load(path, weights_only=True)


def curves(folder):
    """All points of a run but those of the clock, in their order."""
    events = [event for event in read_events(folder) if event["kind"] == "point" and event["win"] not in OF_THE_CLOCK]
    return [(event["win"], event.get("line"), event["step"], event["x"], event["y"]) for event in events]


def assert_same_end(folder, undisturbed, but=()):
    """Parameters, optimizer, meters, generators and best mAP to the last bit, and the same curves."""
    for name in {"last.pth", "best.pth"} - set(but):
        own, expected = state(folder / name), state(undisturbed / name)
        for part in expected.keys() - {"config", "options", "show", "vis_info", "run", "environment"}:
            assert same(own[part], expected[part]), (name, part)
    assert curves(folder) == curves(undisturbed)


def step_of(folder):
    """That of the last save, 0 before the first."""
    path = folder / "last.pth"
    return state(path)["other_info"]["step"] if path.exists() else 0
