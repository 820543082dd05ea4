"""The sets and loaders that a command begins with, from its options."""

from data.dataset import Dataset, TestDataset
from data.loader import EpochLoader, test_loader, train_loader
from data.splits import training_sets
from utils.checkpoint import read_checkpoint
from utils.cli_tool import workers
from utils.dist_tool import ALONE
from utils.label_names import parse_label_names
from utils.precision_tool import amp_dtype, autocast
from utils.progress_tool import progress_bar
from utils.proposal_tool import read_proposals


def training_data(opt, names_to_go_on, strict=True, checkpoint=None):
    """The training set, the validation set or None, and the checkpoint to start from or None.

    Args:
        opt: a `Config`.
        names_to_go_on: function of a checkpoint, names and whether they were given, see `model.zoo`.
        strict: see `training_sets`.
        checkpoint: that of `opt`, if it was read before: of a large network it is over a gigabyte.
    """
    if checkpoint is None and (path := opt.load_path or opt.finetune):
        checkpoint = read_checkpoint(path)
    names = parse_label_names(opt.label_names) if opt.label_names else None
    given = bool(names)
    known = (lambda names: names_to_go_on(checkpoint, names, given)) if opt.load_path else None
    splits = opt.train_split, opt.val_split
    needs_val = "val_split" in opt.given
    return *training_sets(opt.data, opt.data_dir, *splits, names, known, needs_val, strict), checkpoint


def training_loader(opt, model, db, rois, world=ALONE):
    """What `model` takes of `db` for each update, augmented and in the order that `opt`, a `Config`, says."""
    raw = model.device.type == "cuda"  # a GPU resizes faster
    geometry = {"min_sizes": opt.train_sizes, "max_ratio": opt.max_ratio, "scale_crop": opt.scale_crop}
    augmentation = geometry | {"jitter": opt.jitter, "plus_one": model.convention.plus_one}
    dataset = Dataset(db, *model.preparation, seed=opt.seed, raw=raw, proposals=rois, **augmentation)
    wide = [width > height for height, width in map(db.size, range(len(db)))] if opt.group_by_aspect else None
    n_workers = workers(opt.num_workers, world.local_size)
    return EpochLoader(lambda: train_loader(dataset, opt.batch_size, n_workers, wide, world, opt.accumulate))


def stored_proposals(opt, train_db, val_db):
    """The proposals of --proposals for both sets, or None."""
    if not opt.proposals:
        return None, None
    train_rois = read_proposals(opt.proposals, train_db.ids)
    return train_rois, read_proposals(opt.proposals, val_db.ids) if val_db is not None else None


def over(opt, model, db, n, what, function, *arguments, world=ALONE):
    """`function(model, loader, *arguments, ...)` of `db`'s first `n` images, with a bar, in the wanted precision.

    Of several processes each has its share of them.
    """
    world.share_buffers(model)
    on_gpu = model.device.type == "cuda"
    n_workers = workers(opt.test_num_workers, world.local_size)
    loader = test_loader(TestDataset(db, *model.preparation, raw=on_gpu), n_workers, n, world)
    with (
        progress_bar(total=len(world.share(n)), desc=f"{what} {db.split}", unit="img", leave=False) as bar,
        autocast(model.device, amp_dtype(opt.amp, model.device)),
    ):
        return function(model, loader, *arguments, bar.update, 32 if on_gpu else 1, raw=on_gpu, world=world)
