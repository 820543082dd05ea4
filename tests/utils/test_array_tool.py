"""utils/array_tool.py: what goes in comes out, as the other kind."""

import numpy as np
import pytest
import torch

from utils import array_tool as at

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])]


@pytest.mark.parametrize("device", DEVICES)
def test_tonumpy_of_a_tensor_with_gradient(device):
    tensor = torch.tensor([[1.5, -2.0]], device=device, requires_grad=True)
    array = at.tonumpy(tensor * 2)
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    assert array.tolist() == [[3, -4]]


def test_tonumpy_of_arrays_and_sequences():
    array = np.arange(3, dtype=np.int32)
    assert at.tonumpy(array) is array
    assert at.tonumpy([(1, 2), (3, 4)]).tolist() == [[1, 2], [3, 4]]
    assert at.tonumpy(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("device", DEVICES)
def test_totensor(device):
    for data in ([1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2])):
        tensor = at.totensor(data, device=device, dtype=torch.float64)
        assert tensor.device.type == device
        assert tensor.dtype == torch.float64
        assert tensor.tolist() == [1, 2]


def test_memory_is_shared_where_it_can_be():
    array = np.zeros(2, dtype=np.float32)
    at.totensor(array)[0] = 5
    assert array[0] == 5
    tensor = torch.zeros(2)
    at.tonumpy(tensor)[1] = 7
    assert tensor[1] == 7


def test_totensor_keeps_dtype_without_being_told():
    assert at.totensor(np.zeros(1, np.int32)).dtype == torch.int32
    assert at.totensor(np.zeros(1, np.float64)).dtype == torch.float64


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 1), (1, 1, 1), (3, 0, 1)])
def test_totensor_takes_reversed_views(shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for view in (array[::-1], array[:, ::-1], array[:, :, ::-1]):
        assert at.totensor(view).tolist() == view.tolist()


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (3, 3),
        (2.5, 2.5),
        (np.float32(1.5), 1.5),
        (np.array([4]), 4),
        (torch.tensor(-1.25, requires_grad=True), -1.25),
        (torch.tensor([[7]]), 7),
    ],
)
def test_scalar_is_a_python_number(data, value):
    found = at.scalar(data)
    assert found == value
    assert type(found) is type(value)


def test_scalar_refuses_more_than_one_number():
    with pytest.raises((ValueError, RuntimeError)):
        at.scalar(np.zeros(2))
    with pytest.raises((ValueError, RuntimeError)):
        at.scalar(torch.zeros(2))


def test_totensor_takes_simple_faster_rcnns_flag():
    assert at.totensor(np.zeros(3), False).device.type == "cpu"
