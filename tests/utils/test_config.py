"""utils/config.py: the contract's options, their types and ranges, and what a mistake does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.config import Config, opt
from utils.errors import UserError

CONTRACT = {
    "min_size": 600,
    "max_size": 1000,
    "num_workers": 8,
    "test_num_workers": 8,
    "rpn_sigma": 3.0,
    "roi_sigma": 1.0,
    "weight_decay": 0.0005,
    "lr_decay": 0.1,
    "lr": 1e-3,
    "env": "faster-rcnn",
    "port": 8097,
    "plot_every": 40,
    "data": "voc",
    "pretrained_model": "vgg16",
    "epoch": 14,
    "use_adam": False,
    "use_chainer": False,
    "use_drop": False,
    "debug_file": "/tmp/debugf",
    "test_num": 10000,
    "load_path": None,
    "caffe_pretrain": False,
    "caffe_pretrain_path": "checkpoints/vgg16_caffe.pth",
}
# A value other than the default, as a command line gives it, and what it means.
GIVEN = {
    "voc_data_dir": ("/data/VOC2012", "/data/VOC2012"),
    "min_size": ("300", 300),
    "max_size": ("900", 900),
    "num_workers": ("0", 0),
    "test_num_workers": ("2", 2),
    "rpn_sigma": ("2", 2.0),
    "roi_sigma": ("0.5", 0.5),
    "weight_decay": ("1e-4", 1e-4),
    "lr_decay": ("0.33", 0.33),
    "lr": ("3e-4", 3e-4),
    "env": ("mine", "mine"),
    "port": ("8098", 8098),
    "plot_every": ("100", 100),
    "pretrained_model": ("none", "none"),
    "epoch": ("3", 3),
    "use_adam": ("True", True),
    "use_drop": ("True", True),
    "debug_file": ("/tmp/d", "/tmp/d"),
    "test_num": ("50", 50),
    "load_path": ("a.pth", "a.pth"),
    "caffe_pretrain": ("True", True),
    "caffe_pretrain_path": ("b.pth", "b.pth"),
    "batch_size": ("4", 4),
    "device": ("cpu", "cpu"),
    "seed": ("7", 7),
    "model": ("tiny", "tiny"),
    "lr_milestones": ("3,5", (3, 5)),
    "eval_every": ("2", 2),
    "warmup": ("10", 10),
    "max_iter": ("99", 99),
    "train_split": ("trainval", "trainval"),
    "val_split": ("test", "test"),
    "finetune": ("c.pth", "c.pth"),
    "score_thresh": ("0.5", 0.5),
    "nms_thresh": ("0.45", 0.45),
    "label_names": ("cat,dog", "cat,dog"),
}


@pytest.mark.parametrize("name", CONTRACT)
def test_default_of_the_contract(name):
    value = getattr(Config(), name)
    assert value == CONTRACT[name]
    assert type(value) is type(CONTRACT[name])


def test_shared_instance_is_a_config():
    assert isinstance(opt, Config)


@pytest.mark.parametrize("dash", [False, True], ids=["underscore", "dash"])
@pytest.mark.parametrize("name", GIVEN)
def test_each_option_is_taken_under_both_spellings(name, dash):
    text, meaning = GIVEN[name]
    config = Config()
    assert getattr(config, name) != meaning
    assert config.parse({name.replace("_", "-") if dash else name: text}) is config
    assert getattr(config, name) == meaning
    assert type(getattr(config, name)) is type(meaning)
    assert config.given == {name}


@pytest.mark.parametrize("value", ["3", "3.0", 3, 3.0, " 3 ", "3e0", "+3"])
def test_whole_numbers(value):
    config = Config().parse({"epoch": value})
    assert config.epoch == 3
    assert type(config.epoch) is int


@pytest.mark.parametrize("value", ["3.5", "three", "", "nan", "inf", True, "True", None, "None", [3]])
def test_not_a_whole_number(value):
    with pytest.raises(UserError, match="--epoch") as error:
        Config().parse({"epoch": value})
    assert "whole number" in str(error.value)


@pytest.mark.parametrize("value", ["x", "nan", "", "1,5", True, None])
def test_not_a_number(value):
    with pytest.raises(UserError, match="--lr") as error:
        Config().parse({"lr": value})
    assert "number" in str(error.value)


@pytest.mark.parametrize("value", [True, "True", "true", "TRUE", "yes", "on", "1", 1])
def test_spellings_of_true(value):
    assert Config().parse({"use_adam": value}).use_adam is True


@pytest.mark.parametrize("value", [False, "False", "false", "FALSE", "no", "off", "0", 0])
def test_spellings_of_false(value):
    assert Config().parse({"reload_best": value}).reload_best is False


@pytest.mark.parametrize(("value", "taken"), [(False, "off"), ("True", "on"), ("no", "off"), ("keep", "keep")])
def test_other_words_for_a_choice(value, taken):
    assert Config().parse({"visdom": value}).visdom == taken


@pytest.mark.parametrize("value", ["flase", "2", "", None, "truefalse", 2])
def test_not_a_truth_value(value):
    with pytest.raises(UserError, match="--use-adam"):
        Config().parse({"use_adam": value})


@pytest.mark.parametrize(
    "value", ["8,16,32", "(8, 16, 32)", "[8,16,32]", (8, 16, 32), [8.0, 16, 32], ["8", "16", "32"]]
)
def test_tuples_of_numbers(value):
    assert Config().parse({"anchor_scales": value}).anchor_scales == (8.0, 16.0, 32.0)


@pytest.mark.parametrize("value", ["5", 5, (5,), "5,", "(5,)", "[5]"])
def test_tuple_of_one(value):
    assert Config().parse({"lr_milestones": value}).lr_milestones == (5,)


@pytest.mark.parametrize("value", ["", "()", []])
def test_no_milestones(value):
    assert Config().parse({"lr_milestones": value}).lr_milestones == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr_milestones", "3,x"), ("lr_milestones", "2.5"), ("anchor_scales", "()"), ("anchor_ratios", "a")],
)
def test_wrong_tuples(name, value):
    with pytest.raises(UserError, match="--" + name.replace("_", "-")):
        Config().parse({name: value})


@pytest.mark.parametrize("value", [None, "None", "none"])
def test_none_clears_an_option_that_may_be_absent(value):
    config = Config().parse({"load_path": "a.pth", "score_thresh": "0.3"})
    config.parse({"load_path": value, "score_thresh": value})
    assert config.load_path is None
    assert config.score_thresh is None


@pytest.mark.parametrize(
    ("value", "kept"), [("2024", "2024"), (2024, "2024"), ("run#2", "run#2"), ("1e3", "1e3"), ("None", "None")]
)
def test_text_stays_as_it_was_written(value, kept):
    assert Config().parse({"env": value}).env == kept


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("plot_evry", "--plot-every"),
        ("plot-evry", "--plot-every"),
        ("batchsize", "--batch-size"),
        ("learning_rates", None),
        ("lr_milestone", "--lr-milestones"),
        ("given", None),
        ("parse", None),
        ("qqqq", None),
    ],
)
def test_unknown_name(name, near):
    with pytest.raises(UserError) as error:
        Config().parse({name: "1"})
    message = str(error.value)
    assert message.startswith("--" + name.replace("_", "-"))
    assert "\n" not in message
    assert near is None or near in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", "-0.1"),
        ("lr", "inf"),
        ("port", "0"),
        ("port", "65536"),
        ("batch_size", "0"),
        ("plot_every", "0"),
        ("eval_every", "0"),
        ("epoch", "-1"),
        ("num_workers", "-1"),
        ("seed", "-1"),
        ("score_thresh", "1.01"),
        ("score_thresh", "-0.01"),
        ("nms_thresh", "30"),
        ("min_size", "0"),
        ("lr_decay", "-1"),
        ("anchor_scales", "8,0"),
        ("anchor_ratios", "-1,1"),
        ("lr_milestones", "3,-1"),
        ("rpn_sigma", "0"),
        ("max_dets", "0"),
        ("data", "yolo"),
        ("jitter", "1.01"),
        ("jitter", "-0.1"),
        ("scale_crop", "30"),
        ("roi", "warp"),
        ("input_mode", "bgr"),
    ],
)
def test_out_of_range(name, value):
    config = Config()
    with pytest.raises(UserError) as error:
        config.parse({name: value})
    message = str(error.value)
    assert message.startswith("--" + name.replace("_", "-"))
    assert "must be" in message
    assert "\n" not in message
    assert config == Config()


@pytest.mark.parametrize(
    ("name", "value"),
    [("score_thresh", 0.0), ("score_thresh", 1.0), ("port", 65535), ("port", 1), ("warmup", 0), ("batch_size", 1)],
)
def test_ends_of_the_range_belong_to_it(name, value):
    assert getattr(Config().parse({name: str(value)}), name) == value


def test_near_choice_is_suggested():
    with pytest.raises(UserError, match=r"--input-mode=torchvison: .*did you mean torchvision\?"):
        Config().parse({"input_mode": "torchvison"})


@pytest.mark.parametrize("wrong", [{"batch_size": "0"}, {"nonsense": "1"}, {"port": "x"}, {"use_chainer": "True"}])
@pytest.mark.parametrize("wrong_first", [False, True])
def test_nothing_changes_when_one_is_wrong(wrong, wrong_first):
    config = Config().parse({"lr": "0.5"})
    good = {"lr": "0.01", "env": "new"}
    with pytest.raises(UserError):
        config.parse({**wrong, **good} if wrong_first else {**good, **wrong})
    assert (config.lr, config.env, config.batch_size) == (0.5, "faster-rcnn", 1)
    assert config.given == {"lr"}


def test_use_chainer_is_refused_with_the_reason():
    with pytest.raises(UserError, match=r"--use-chainer.*chainer"):
        Config().parse({"use-chainer": "True"})
    assert Config().parse({"use_chainer": "False"}).use_chainer is False


def test_sizes_of_a_checkpoint_are_not_the_defaults():
    """Only one is given: the other is in the file."""
    assert Config().parse({"max_size": "300", "load_path": "x.pth"}).max_size == 300
    assert Config().parse({"min_size": "2000", "finetune": "x.pth"}).min_size == 2000
    with pytest.raises(UserError, match="--min-size=500"):
        Config().parse({"max_size": "300", "min_size": "500", "load_path": "x.pth"})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"caffe_pretrain": "True", "pretrained_path": "x.pth"}, "--pretrained-path"),
        ({"caffe_pretrain": "True", "pretrained_model": "none"}, "--pretrained-model"),
    ],
)
def test_weights_from_two_places(given, named):
    with pytest.raises(UserError, match=named):
        Config().parse(given)
    everything = Config().parse({"caffe_pretrain": True, "caffe_pretrain_path": "x.pth"}).state_dict()
    assert Config().update_known(everything).caffe_pretrain_path == "x.pth"  # what a checkpoint stores fits together


def test_a_training_size_above_max_size():
    with pytest.raises(UserError, match=r"^--train-sizes: 1200 is more than --max-size=1000; make it less$"):
        Config().parse({"train_sizes": "480,1200"})
    assert Config().parse({"train_sizes": "480,1200", "max_size": "1300"}).train_sizes == (480, 1200)


def test_min_size_above_max_size():
    with pytest.raises(UserError, match=r"--min-size=1200.*--max-size"):
        Config().parse({"min_size": "1200"})
    config = Config().parse({"min_size": "1200", "max_size": "2000"})
    assert (config.min_size, config.max_size) == (1200, 2000)


def test_two_checkpoints():
    with pytest.raises(UserError, match=r"--load-path.*--finetune"):
        Config().parse({"load_path": "a", "finetune": "b"})


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "lr": st.floats(0, 100),
            "epoch": st.integers(1, 10**6),
            "use_adam": st.booleans(),
            "anchor_scales": st.lists(st.floats(0.1, 1024), min_size=1, max_size=4).map(tuple),
            "lr_milestones": st.lists(st.integers(0, 999), max_size=4).map(tuple),
            "env": st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
            "max_dets": st.none() | st.integers(1, 10**6),
        },
    )
)
def test_stored_options_come_back(values):
    config = Config().parse(values)
    stored = config.state_dict()
    assert all(stored[name] == (list(v) if isinstance(v, tuple) else v) for name, v in values.items())
    assert Config().update_known(stored) == config


def test_options_of_an_old_checkpoint():
    old = {"lr": 0.002, "lr1": 1e-3, "lr2": 1e-4, "milestone": 9, "use_chainer": True, "data": "kitti", "port": 9000}
    config = Config().update_known(old)
    assert (config.lr, config.port) == (0.002, 9000)
    assert config == Config().parse({"lr": 0.002, "port": 9000})


def test_sizes_of_a_checkpoint_are_taken_together():
    config = Config().update_known({"min_size": 1200, "max_size": 2000})
    assert (config.min_size, config.max_size) == (1200, 2000)


STORED = {"lr": 0.002, "model": "tiny", "roi": "align", "anchor_scales": [1, 2], "nms_thresh": 0.4, "min_size": 96,
          "port": 9000, "name": "former", "device": "cuda:3", "num_workers": 3, "load_path": "old.pth", "out": "x",
          "plot_every": 7, "env": "theirs", "overwrite": True, "lr1": 1, "data": "kitti", "batch_size": 1}  # fmt: skip


def begun_with(stored, names=None, **command_line):
    config = Config()
    config.begin_with(stored, names or config.state_dict().keys(), command_line.get("model"))
    return config.parse(command_line)


def test_a_run_begins_with_what_is_no_matter_of_its_machine():
    config = begun_with(STORED, lr="0.1")
    taken = {"model": "tiny", "roi": "align", "anchor_scales": (1, 2), "nms_thresh": 0.4, "min_size": 96}
    assert config == Config().parse(taken | {"plot_every": 7, "lr": 0.1})  # the command line is on top
    assert config.given == {*taken, "plot_every", "lr"}  # not batch_size, which is the default
    assert begun_with(STORED, ("lr", "seed")) == Config().parse({"lr": 0.002})


def test_another_model_has_its_own_anchors_and_rois():
    config = begun_with(STORED, model="vgg16")
    assert config == Config().parse({"min_size": 96, "plot_every": 7, "lr": 0.002})
    assert begun_with(STORED, model="tiny") == begun_with(STORED)


def test_the_other_kind_of_data_is_not_read_without_a_word():
    with pytest.raises(UserError, match="--voc-data-dir goes with --data=voc"):
        begun_with({"data": "coco", "coco_data_dir": "theirs"}, voc_data_dir="mine")
    assert begun_with({"data": "coco", "coco_data_dir": "theirs"}, voc_data_dir="mine", data="voc").data_dir == "mine"


def test_the_options_as_words_give_the_same_options():
    config = Config().parse({"lr": 0.002, "anchor_scales": (1, 2.5), "use_adam": True, "env": "a b", "score_thresh": 0})
    words = dict(word.removeprefix("--").split("=", 1) for word in config.words())
    assert Config().parse(words) == config
    assert Config().words() == []


@pytest.mark.parametrize("read", ["load_path", "detections", "save_detections"])
def test_nothing_is_written_over_what_is_read(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a.json")
    for out in ("a.json", "./a.json", str(tmp_path / "a.json"), "link"):
        with pytest.raises(UserError, match=rf"^--[-a-z]*={out}: is --[-a-z]* too, and would be lost; choose another$"):
            Config().parse({read: "a.json", "out": out})
    Config().parse({read: "a.json", "out": "b.json"})
