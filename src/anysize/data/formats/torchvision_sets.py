"""The data sets that torchvision knows, as arrays in memory. Imports no torch before a data set is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from anysize.data.dataset import DataSet, MissingSplit, Split, data_root
from anysize.data.settings import DataSettings
from anysize.registry import UserError

if TYPE_CHECKING:
    from anysize.data.source import ArraySource


class TorchvisionSet(DataSet):
    """A data set that torchvision holds in memory; torchvision checks the files' published checksums."""

    published = True
    torchvision_name: ClassVar[str]
    folder: ClassVar[str]
    """Where torchvision keeps the files within root."""

    def load(self, settings: DataSettings, split: Split, targets: str = "class") -> "ArraySource":
        """Read torchvision's folder in root; download it when asked for."""
        import numpy as np
        import torch

        from anysize.data.source import ArraySource

        root = data_root(settings, f"torchvision's folder {self.folder}", downloadable=True)
        dataset = _torchvision(settings, self.torchvision_name, root, **self.which(split))
        # STL-10 is stored (N, C, H, W), the others (N, H, W, C).
        images = dataset.data if dataset.data.shape[3] == 3 else dataset.data.transpose(0, 2, 3, 1)
        labels = np.asarray(dataset.targets if hasattr(dataset, "targets") else dataset.labels, dtype=np.int64)
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        return ArraySource(pixels, labels, tuple(dataset.classes), f"{settings.name} {split}")

    def which(self, split: Split) -> dict[str, Any]:
        """The arguments of torchvision's data set that choose the split."""
        return {"train": split == "train"}


class IdxSet(DataSet):
    """MNIST or a data set like it: IDX files, plain or gzipped, in root or where torchvision puts them."""

    published = True
    torchvision_name: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]

    def load(self, settings: DataSettings, split: Split, targets: str = "class") -> "ArraySource":
        """Read the IDX files; download them when asked for."""
        import numpy as np
        import torch

        from anysize.data.formats.idx import read_idx_pair
        from anysize.data.source import ArraySource

        folder = f"{self.torchvision_name}/raw"
        files = "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the same of t10k"
        expected = f"{files} (here or in {folder})"
        root = data_root(settings, expected, downloadable=True)
        pair = read_idx_pair(root, split, folder, len(self.classes))
        if pair is None and settings.download:
            _torchvision(settings, self.torchvision_name, root, train=split == "train")
            pair = read_idx_pair(root, split, folder, len(self.classes))
        if pair is None:
            raise MissingSplit(
                f"{root} does not hold {settings.name!r}; expected {expected} in it; --data.download true fetches them"
            )
        images, labels = pair
        pixels = torch.from_numpy(images.copy()).unsqueeze(3)  # (N, H, W, 1)
        return ArraySource(pixels, labels.astype(np.int64), self.classes, f"{settings.name} {split}")


def _torchvision(settings: DataSettings, name: str, root: Path, **arguments: Any) -> Any:
    import torchvision.datasets

    try:
        return getattr(torchvision.datasets, name)(root, download=settings.download, **arguments)
    except (RuntimeError, OSError) as error:  # URLError is an OSError
        if settings.download:
            raise UserError(f"downloading {settings.name!r} into {root} failed: {error}") from error
        raise UserError(
            f"{root} does not hold {settings.name!r} as torchvision stores it, or its files are damaged ({error}); "
            "--data.download true fetches it"
        ) from error
