"""model/faster_rcnn.py: prediction, padding, and the parameters that learn. Tiny unless the model is the point."""

import numpy as np
import pytest
import torch
from torch import nn

from model import FasterRCNNTiny
from model.faster_rcnn import batch_geometry
from utils.image_tool import prepare

SIZES = [(50, 70), (90, 40), (64, 64)]


def lively(model, seed=0):
    """Spread the outputs of a random network: proposals that differ, and scores on both sides of each threshold."""
    generator = torch.Generator().manual_seed(seed)
    layers = ((model.rpn.score, 0.1), (model.rpn.loc, 0.05), (model.head.score, 12.0), (model.head.cls_loc, 0.05))
    with torch.no_grad():
        for layer, std in layers:
            layer.weight.normal_(0, std, generator=generator)
        model.head.score.bias[1:] = torch.tensor([1.0, 0.5, 0.0])
    return model


def lively_tiny(**options):
    torch.manual_seed(3)
    return lively(FasterRCNNTiny(3, min_size=64, max_size=120, label_names=("a", "b", "c"), **options)).eval()


@pytest.fixture(scope="module")
def tiny():
    return lively_tiny()


def pictures(sizes=SIZES, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (3, *size)).astype(np.float32) for size in sizes]


def assert_same(a, b, atol=1e-4):
    for column_a, column_b in zip(a, b, strict=True):
        for array_a, array_b in zip(column_a, column_b, strict=True):
            np.testing.assert_allclose(array_a, array_b, atol=atol)


def test_results_are_arrays_best_first(tiny):
    bboxes, labels, scores = tiny.predict(pictures())
    assert len(bboxes) == len(labels) == len(scores) == len(SIZES)
    assert len(set(np.concatenate(labels))) > 1
    for bbox, label, score in zip(bboxes, labels, scores):
        assert (bbox.dtype, label.dtype, score.dtype) == (np.float32, np.int32, np.float32)
        assert bbox.shape == (len(label), 4)
        assert score.shape == label.shape
        assert len(score) > 10
        assert (np.diff(score) <= 0).all()
        assert ((score > tiny.score_thresh) & (score <= 1)).all()
        assert set(label) <= {0, 1, 2}


# In the first four, resizing an edge back comes to a little more than the side if float32 rounds it.
@pytest.mark.parametrize("size", [(137, 56), (62, 129), (127, 71), (28, 20), (20, 61), (160, 20), (48, 48)])
def test_boxes_lie_in_the_original(tiny, size):
    tiny.score_thresh, tiny.nms_thresh = 0.0, 1.0  # all boxes: some reach every edge
    try:
        (bbox,), _, _ = tiny.predict(pictures([size]))
    finally:
        tiny.use_preset("evaluate")
    assert len(bbox) > 100
    np.testing.assert_allclose(bbox.max(axis=0)[2:], size, rtol=1e-6)
    assert (bbox >= 0).all()
    assert (bbox[:, :2] <= bbox[:, 2:]).all()
    assert (bbox[:, 2] <= size[0]).all()
    assert (bbox[:, 3] <= size[1]).all()


def test_pixels_are_those_of_the_original(tiny):
    """A picture twice as large, prepared to the same pixels, has the same objects at twice the coordinates."""
    prepared = prepare(pictures([(64, 80)])[0], 64, 120)
    small = tiny.predict([prepared], [(64, 80)])
    large = tiny.predict([prepared], [(128, 160)])
    # The least size of a proposal is in pixels of the picture: these are all above it.
    assert len(small.bboxes[0]) == len(large.bboxes[0]) > 10
    np.testing.assert_allclose(small.bboxes[0] * 2, large.bboxes[0], atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 50])
def test_batches_change_nothing_but_the_speed(tiny, batch_size):
    """Only images of one prepared size go together; the results come in the order of the pictures."""
    imgs = pictures([(50, 70), (64, 64), (50, 70), (90, 40), (100, 140), (50, 70), (64, 64)])
    together = tiny.predict(imgs, batch_size=batch_size)
    for i, img in enumerate(imgs):
        alone = tiny.predict([img], batch_size=1)
        assert len(alone.scores[0]) > 10
        assert_same([column[i : i + 1] for column in together], alone, atol=1e-3)


def test_pictures_of_many_sizes_do_not_pile_up(tiny, monkeypatch):
    """A picture that waits for another of its size is on the device: at most four batches wait."""
    imgs = pictures([(40 + 3 * k, 60) for k in range(12)])
    prepared, done, piled = [], [], []
    detect = type(tiny)._boxes_and_scores

    def noted(self, batch, *others):
        done.extend(batch)
        return detect(self, batch, *others)

    def counted(*args):
        prepared.append(prepare(*args))
        piled.append(len(prepared) - len(done))
        return prepared[-1]

    monkeypatch.setattr(type(tiny), "_boxes_and_scores", noted)
    monkeypatch.setattr("model.faster_rcnn.prepare", counted)
    together = tiny.predict(imgs, batch_size=2)
    assert len(done) == 12
    assert max(piled) == 8
    monkeypatch.undo()
    for i, img in enumerate(imgs):
        assert_same([column[i : i + 1] for column in together], tiny.predict([img]))


@pytest.mark.parametrize("training", [True, False])
def test_predict_is_pure(tiny, training):
    tiny.train(training)
    tiny.head.train(not training)  # a mix of modes
    tiny.nms_thresh, tiny.score_thresh = 0.41, 0.11
    modes = {name: module.training for name, module in tiny.named_modules()}
    state = {name: value.clone() for name, value in tiny.state_dict().items()}
    needs = {name: p.requires_grad for name, p in tiny.named_parameters()}
    try:
        imgs = pictures()
        copies = [img.copy() for img in imgs]
        tiny.predict(imgs)
        tiny.predict(imgs, visualize=True)
        with pytest.raises(Exception, match=r".*"):
            tiny.predict([np.zeros((5, 40, 40), np.float32)])  # a failure leaves it as it was, too
        assert (tiny.nms_thresh, tiny.score_thresh) == (0.41, 0.11)
        assert {name: module.training for name, module in tiny.named_modules()} == modes
        assert all(torch.equal(value, state[name]) for name, value in tiny.state_dict().items())
        assert {name: p.requires_grad for name, p in tiny.named_parameters()} == needs
        assert all(p.grad is None for p in tiny.parameters())
        assert all(np.array_equal(img, copy) for img, copy in zip(imgs, copies))
        assert torch.is_grad_enabled()
    finally:
        tiny.eval().use_preset("evaluate")


def test_mode_does_not_matter(tiny):
    expected = tiny.predict(pictures())
    tiny.train()
    try:
        assert_same(tiny.predict(pictures()), expected, atol=0)
    finally:
        tiny.eval()


def test_prepared_images_of_the_contract(tiny):
    expected = tiny.predict(pictures())
    prepared = [prepare(img, 64, 120) for img in pictures()]
    assert_same(tiny.predict(prepared, SIZES), expected)
    assert_same(tiny.predict(prepared, [torch.tensor(size) for size in SIZES]), expected)
    assert_same(tiny.predict(prepared[0][None], [SIZES[0]]), [column[:1] for column in expected])
    assert_same(tiny.predict([p.numpy() for p in prepared], np.array(SIZES)), expected)


def test_numpy_tensors_and_bytes(tiny):
    imgs = pictures()
    expected = tiny.predict(imgs)
    assert_same(tiny.predict([torch.from_numpy(img) for img in imgs]), expected, atol=0)
    assert_same(tiny.predict([img.astype(np.uint8) for img in imgs]), expected, atol=0)
    assert_same(tiny.predict([torch.from_numpy(img).to(torch.uint8) for img in imgs]), expected, atol=0)


def test_images_do_not_depend_on_their_neighbours(tiny):
    expected = tiny.predict(pictures())
    for i, img in enumerate(pictures()):
        assert_same(tiny.predict([img]), [column[i : i + 1] for column in expected], atol=0)


@pytest.mark.parametrize("n", [1, 5, 10**6])
def test_max_dets_takes_the_best(tiny, n):
    full = tiny.predict(pictures())
    assert_same(tiny.predict(pictures(), max_dets=n), [[array[:n] for array in column] for column in full], atol=0)


def test_visualize_takes_its_preset(tiny):
    shown = tiny.predict(pictures(), visualize=True)
    tiny.nms_thresh, tiny.score_thresh = 0.3, 0.7
    try:
        assert_same(tiny.predict(pictures()), shown, atol=0)
    finally:
        tiny.use_preset("evaluate")
    all_scores = np.concatenate(tiny.predict(pictures()).scores)
    assert 0 < len(np.concatenate(shown.scores)) == (all_scores > 0.7).sum() < len(all_scores)


def test_presets(tiny):
    tiny.use_preset("visualize")
    assert (tiny.nms_thresh, tiny.score_thresh) == (0.3, 0.7)
    tiny.use_preset("evaluate")
    assert (tiny.nms_thresh, tiny.score_thresh) == (0.3, 0.05)
    with pytest.raises(ValueError, match="visualize"):
        tiny.use_preset("draw")


def test_no_pictures(tiny):
    assert tiny.predict([]) == ([], [], [])


@pytest.mark.parametrize("cause", ["no score", "no proposal"])
def test_no_detections(tiny, cause):
    creator = tiny.rpn.proposal_layer
    before = creator.min_size
    if cause == "no score":
        tiny.score_thresh = 1.0
    else:
        creator.min_size = 1000
    try:
        (bbox,), (label,), (score,) = tiny.predict(pictures()[:1])
    finally:
        tiny.use_preset("evaluate")
        creator.min_size = before
    assert (bbox.shape, label.shape, score.shape) == ((0, 4), (0,), (0,))
    assert (bbox.dtype, label.dtype, score.dtype) == (np.float32, np.int32, np.float32)


def test_frozen_batchnorm_stays_frozen():
    model = FasterRCNNTiny(2)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 5
    model.train()
    assert all(norm.training for norm in norms)
    model.freeze_bn()
    assert model.training
    assert model.head.training
    model.eval()
    model.train()
    assert model.extractor.training
    assert not any(norm.training for norm in norms)
    statistics = [norm.running_mean.clone() for norm in norms]
    model.extractor(torch.randn(2, 3, 40, 40))
    assert all(torch.equal(norm.running_mean, before) for norm, before in zip(norms, statistics))
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())


@pytest.mark.parametrize("scale", [2.0, [2.0, 2.0], torch.tensor(2.0), np.float32(2), torch.tensor([2.0, 2.0])])
def test_forms_of_scale_and_sizes(scale):
    imgs = torch.zeros(2, 3, 40, 50)
    assert batch_geometry(imgs, scale, None) == ([(40, 50)] * 2, [2.0, 2.0])
    assert batch_geometry(imgs, scale, torch.tensor([[40, 50], [8, 9]]))[0] == [(40, 50), (8, 9)]


def test_sizes_beyond_the_batch():
    with pytest.raises(ValueError, match="do not lie within"):
        batch_geometry(torch.zeros(2, 3, 40, 50), 1.0, [(40, 50), (41, 50)])


def test_wrong_numbers_in_predict(tiny):
    imgs = torch.zeros(2, 3, 40, 50)
    with pytest.raises(ValueError, match="2 images, but 1 sizes"):
        tiny.predict(imgs, [(40, 50)])
    with pytest.raises(ValueError, match="max_dets -1"):
        tiny.predict(imgs, [(40, 50)] * 2, max_dets=-1)


def test_wrong_number_of_sizes():
    with pytest.raises(ValueError, match="2 images"):
        batch_geometry(torch.zeros(2, 3, 4, 4), 1.0, [(4, 4)])
    with pytest.raises(ValueError, match="2 images"):
        batch_geometry(torch.zeros(2, 3, 4, 4), [1.0] * 3, None)


@pytest.mark.slow
def test_compiled_layers_give_the_same_numbers():
    torch.manual_seed(0)
    model = lively(FasterRCNNTiny(3, min_size=64, max_size=120)).eval()
    names, imgs = list(model.state_dict()), pictures([(50, 70), (64, 64), (90, 40)])
    expected = model.predict(imgs)
    model.compile_layers()
    assert list(model.state_dict()) == names
    assert_same(model.predict(imgs), expected, atol=1e-2)
