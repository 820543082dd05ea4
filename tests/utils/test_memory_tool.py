"""utils/memory_tool.py: the estimate against what is counted by hand, and against what a step takes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.zoo import build_model
from utils.memory_tool import Memory, training_memory

ROOT = Path(__file__).resolve().parents[2]
MEASURE = """
import sys
import torch
from model.zoo import build_model
from trainer import FasterRCNNTrainer
from utils.config import Config
from utils.memory_tool import training_memory

def steps(name, size, n_images, adam, n):
    torch.manual_seed(0)
    model = build_model(name, 20).to(memory_format=torch.channels_last).train()
    trainer = FasterRCNNTrainer(model, config=Config().parse({"use_adam": adam}))
    for _ in range(n):
        imgs = torch.randn(n_images, 3, *size).contiguous(memory_format=torch.channels_last)
        bbox, label = torch.tensor([[10.0, 10, 60, 70], [30, 30, 90, 90]]), torch.tensor([0, 1])
        trainer.train_step(imgs, [bbox] * n_images, [label] * n_images, [1.0] * n_images, [size] * n_images)
    return model

def memory(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) * 1024

name, height, width, n_images, adam = sys.argv[1], *map(int, sys.argv[2:])
size = height, width
steps("tiny", (96, 96), 1, bool(adam), 1)  # what the libraries take once
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak from here on
model = steps(name, size, n_images, bool(adam), 3)
print(memory("VmHWM") - before, training_memory(model, size, n_images, None, bool(adam)).total)
"""


def test_parameters_gradients_and_optimizer_are_counted_exactly():
    model = build_model("tiny", 3, freeze_at=1)
    n, n_trained = (sum(p.numel() for p in model.parameters() if p.requires_grad or every) for every in (True, False))
    assert n_trained < n
    memory = training_memory(model, (96, 128))
    assert memory[:3] == (4 * n, 4 * n_trained, 4 * n_trained)
    assert training_memory(model, (96, 128), adam=True).optimizer == 8 * n_trained
    assert memory.total == sum(memory)
    assert training_memory(model, (96, 128), amp=torch.bfloat16).parameters == 6 * n


def test_activations_grow_with_the_pictures_and_go_with_frozen_stages():
    model = build_model("tiny", 3)
    one, two, large = (training_memory(model, *given).activations for given in (((96, 96),), ((96, 96), 2),
                                                                                ((192, 192),)))  # fmt: skip
    assert two == pytest.approx(2 * one, rel=0.01)
    assert one < large <= 4 * one
    assert training_memory(build_model("tiny", 3, freeze_at=2), (96, 96)).activations < one


def test_the_models_state_stays_as_it_is():
    model = build_model("tiny", 3).eval()
    model.get_optimizer(0.1, 0, True)
    training_memory(model, (96, 96))
    assert not model.training
    assert all(p.device.type == "cpu" and p.grad is None for p in model.parameters())


def test_the_words():
    memory = Memory(500_000_000, 500_000_000, 1_000_000_000, 123_000_000)
    words = "about 2.1 GB (parameters 0.50, gradients 0.50, optimizer 1.0, activations 0.12)"
    assert memory.text() == words


SIZES = [
    ("tiny", 128, 170, 4, 1),
    pytest.param(("mobilenet_v2", 320, 427, 2, 0), marks=pytest.mark.slow),
    pytest.param(("vgg16", 600, 800, 1, 0), marks=pytest.mark.slow),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize("words", SIZES, ids=lambda words: words[0])
def test_the_estimate_is_near_what_a_step_takes(words):
    """A part of what is free in the heap before a run serves it: a small run's peak depends on that, too."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    measured, estimate = map(int, done.stdout.split())
    assert 0.6 * measured < estimate < 1.5 * measured
