"""MixedSizeLoader in a stranger's loop over a stranger's data set."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from image_files import smooth_image
from torch import Tensor
from torchvision.transforms import v2

from anysize.data.mixed import MixedSizeLoader
from anysize.registry import UserError
from anysize.sizes.mix import SizeMix

MIX = SizeMix.custom({16: 0.5, 32: 0.5}, base=32, budget="D+")


class Pictures:
    """A data set as people write them: PIL images, its own random augmentation, the index as target."""

    def __init__(self, transform: Any = None) -> None:
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = smooth_image(index, 40, 30)
        return (self.transform(image) if self.transform else image), index

    def __len__(self) -> int:
        return 41


def listed(batches: Iterator[tuple[Tensor, Tensor]]) -> list[tuple[bytes, list[int]]]:
    return [(images.numpy().tobytes(), targets.tolist()) for images, targets in batches]


def test_images_come_at_mixed_sizes_each_sample_once_an_epoch():
    loader = MixedSizeLoader(Pictures(), MIX, batch_size=4)
    loaded = list(loader)
    assert len(loaded) == len(loader) == 10
    assert {tuple(images.shape) for images, _ in loaded} == {(4, 3, 32, 32), (16, 3, 16, 16)}
    seen = [i for _, targets in loaded for i in set(targets.tolist())]
    assert len(seen) == len(set(seen)) == 40
    for images, targets in loaded:
        copies = len(images) // 4
        assert targets.tolist() == targets[:4].tolist() * copies
        assert 0 <= images.min() <= images.max() <= 1


def test_default_resize_is_torchvisions():
    loader = MixedSizeLoader(Pictures(), SizeMix.fixed(20), batch_size=8)
    images, targets = next(iter(loader))
    reference = v2.Compose([v2.PILToTensor(), v2.Resize((20, 20)), v2.ToDtype(torch.float32, scale=True)])
    assert torch.equal(images[3], reference(smooth_image(int(targets[3]), 40, 30)))


def test_epochs_go_on_by_themselves_and_can_be_chosen():
    loader = MixedSizeLoader(Pictures(), MIX, batch_size=4, seed=3)
    first, second = listed(loader), listed(loader)
    assert first != second
    loader.set_epoch(1)
    assert listed(loader) == second
    loader.set_epoch(0)
    assert listed(loader) == first


def test_random_augmentation_does_not_depend_on_workers_and_differs_by_copy():
    augmented = Pictures(v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(24), v2.PILToTensor()]))
    alone = MixedSizeLoader(augmented, MIX, batch_size=4)
    by_workers = MixedSizeLoader(augmented, MIX, batch_size=4, workers=2)
    for _ in range(2):
        assert listed(alone) == listed(by_workers)
    images, _ = next(batch for batch in alone if len(batch[0]) == 16)
    assert not torch.equal(images[0], images[4])  # two copies of one sample


def test_repeats_are_augmented_each_by_itself():
    augmented = Pictures(v2.Compose([v2.ColorJitter(0.5, 0.5, 0.5), v2.PILToTensor()]))
    loaded = list(MixedSizeLoader(augmented, MIX, batch_size=4, repeats=2))
    assert len(loaded) == 10
    images = {image.numpy().tobytes() for images, _ in loaded for image in images}
    assert len(images) == sum(len(images) for images, _ in loaded)
    assert len({int(i) for _, targets in loaded for i in targets}) in (20, 21)


def test_ranks_share_sizes_and_no_samples():
    ranks = [list(MixedSizeLoader(Pictures(), MIX, batch_size=2, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [images.shape for images, _ in ranks[0]] == [images.shape for images, _ in ranks[1]]
    seen = [{int(i) for _, targets in batches for i in targets} for batches in ranks]
    assert not seen[0] & seen[1]


def test_a_transform_of_ones_own_makes_the_size_asked_for():
    def crop(image: Any, size: int) -> Tensor:
        return v2.functional.center_crop(v2.functional.pil_to_tensor(image), [size, size]).float()

    images, targets = next(iter(MixedSizeLoader(Pictures(), SizeMix.fixed(16), batch_size=4, transform=crop)))
    assert torch.equal(images[2], crop(smooth_image(int(targets[2]), 40, 30), 16))
    wrong = MixedSizeLoader(Pictures(), SizeMix.fixed(16), batch_size=4, transform=lambda image, size: crop(image, 8))
    with pytest.raises(UserError, match=r"transform\(image, 16\) made a tensor of shape \(3, 8, 8\)"):
        next(iter(wrong))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    augmented = Pictures(v2.Compose([v2.RandomCrop(24), v2.PILToTensor()]))
    list(MixedSizeLoader(augmented, MIX, batch_size=4))
    assert torch.equal(torch.get_rng_state(), before)
