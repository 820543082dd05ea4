"""model/start.py: what the options make of a new network."""

import pytest
import torch

from model.start import new_model
from model.zoo import MODELS
from utils.config import Config
from utils.errors import UserError


def options(**given):
    return Config().parse(given)


def frozen(model):
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


@pytest.mark.parametrize("name", ["resnet18_c4", "vgg_cnn_m_1024", "mobilenet_v2"])
def test_stages_of_random_weights_learn(name, capsys):
    none = {} if MODELS[name].pretrained_weights is None else {"pretrained_model": "none"}
    model = new_model(options(model=name, **none), ("a", "b"))
    assert (model.freeze_at, frozen(model)) == (0, [])
    assert f"{name} starts from random weights" in capsys.readouterr().out
    model = new_model(options(model=name, freeze_at=1, **none), ("a", "b"))  # who asks for it
    assert model.freeze_at == 1
    assert frozen(model)


def test_stages_of_imagenets_weights_are_kept(tmp_path, capsys):

    made = MODELS["vgg_cnn_m_1024"](2)
    state = {f"features.{name}": value for name, value in made.extractor.state_dict().items()}
    torch.save(state, tmp_path / "m.pth")
    model = new_model(options(model="vgg_cnn_m_1024", pretrained_path=str(tmp_path / "m.pth")), ("a", "b"))
    assert model.freeze_at == 1
    assert frozen(model)
    assert "random" not in capsys.readouterr().out


def test_an_unknown_model_is_one_line():
    with pytest.raises(UserError, match=r"^--model=vgg61: unknown; did you mean vgg16\?$"):
        new_model(options(model="vgg61"), ("a",))
