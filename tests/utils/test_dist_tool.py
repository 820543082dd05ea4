"""utils.dist_tool.py, without other processes; with them: tests/test_distributed.py."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from model.zoo import MODELS, build_model
from trainer import FasterRCNNTrainer
from utils.config import Config
from utils.dist_tool import ALONE, World, check_start, joined, lost_another, must_be_alike, of_environment, replica
from utils.errors import UserError

TORCHRUNS = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def environment(monkeypatch):
    """Sets what torchrun would; None: not set."""
    for name in (*TORCHRUNS, "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)

    def set_to(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_to


def test_who_one_is(environment):
    assert of_environment() == ALONE
    environment(**TORCHRUNS)
    world = of_environment()
    assert (world.rank, world.size, world.local_rank, world.local_size) == (3, 4, 1, 2)
    assert not world.is_main
    environment(WORLD_SIZE="1")
    assert of_environment() == ALONE


@pytest.mark.parametrize("change", [{"RANK": "first"}, {"LOCAL_RANK": ""}])
def test_half_of_an_environment(environment, change):
    environment(**TORCHRUNS | change)
    with pytest.raises(UserError, match=r"^WORLD_SIZE=4 is set, but RANK, .* start several processes with torchrun"):
        of_environment()


def test_alone_it_asks_nobody(environment):
    with joined() as world:
        assert not dist.is_initialized()
        assert world.max(3, True) == [3, True]
        assert world.sum(torch.ones(2)).tolist() == [1, 1]
        assert (world.gather("a"), world.gather_shares([1, 2]), world.of_main("b")) == (["a"], [1, 2], "b")
        with world.first_here():
            world.wait()
        must_be_alike(world, options=["--seed=3"])


@given(st.integers(0, 50), st.integers(1, 9))
def test_each_thing_is_in_one_share(n, size):
    shares = [World(rank, size).share(n) for rank in range(size)]
    assert sorted(i for share in shares for i in share) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_too_few_images_for_so_many(environment):
    check_start(World(0, 4), 4, None)
    with pytest.raises(UserError, match=r"--batch-size=3: .* all 4 processes together; give at least 4"):
        check_start(World(0, 4), 3, None)


def test_what_is_started_again_must_go_on(environment):
    environment(TORCHELASTIC_RESTART_COUNT="2")
    check_start(ALONE, 1, "auto")
    with pytest.raises(UserError, match="--resume=auto"):
        check_start(ALONE, 1, None)


def test_what_says_that_another_is_gone():
    told = "[../gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1234"
    assert lost_another(RuntimeError(told))
    assert lost_another(dist.DistBackendError("NCCL communicator was aborted"))
    assert not lost_another(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lost_another(ConnectionResetError("Connection reset by peer"))  # a data loader's


@pytest.fixture
def group():
    """A group of one, for what only asks for a group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def two_steps(name, parts):
    """In which DistributedDataParallel would tell of a parameter that it waited for."""
    torch.manual_seed(0)
    small = {"roi_n_sample": 8, "rpn_n_train_post_nms": 16}
    model = build_model(name, 2, **small)
    trainer = FasterRCNNTrainer(model, config=Config().parse({"lr": 1e-4}), parts=parts)
    untrained = {"rpn": ["faster_rcnn.head"], "head": ["faster_rcnn.rpn"], "both": []}[parts]
    vars(trainer)["_replica"] = replica(trainer, World(0, 2), untrained)
    boxes = [torch.tensor([[20.0, 20, 90, 90]]), torch.zeros(0, 4)]
    labels = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)]
    for image in (0, 1):  # the second without boxes, and so without positives
        trainer.train_step(torch.randn(1, 3, 128, 128), boxes[image : image + 1], labels[image : image + 1], 1.0)
    for own, parameter in trainer.named_parameters():
        learns = parameter.requires_grad and not own.startswith(tuple(untrained or ["-"]))
        assert (parameter.grad is not None) == learns, own


@pytest.mark.parametrize("parts", ["both", "rpn", "head"])
def test_no_parameter_is_waited_for(group, parts):
    two_steps("tiny", parts)
    two_steps("resnet18_fpn", parts)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_no_parameter_is_waited_for_in_any_network(group, name):
    two_steps(name, "both")
