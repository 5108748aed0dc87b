"""The page of a data set: what the network sees of it, and what there is of it."""

from pathlib import Path

from anysize.data.statistics import DatasetStatistics
from anysize.reports.data_statistics import statistics_section
from anysize.reports.page import page
from anysize.reports.run_files import write_atomically
from anysize.reports.samples_page import TrainingSamples, samples_section


def write_data_page(
    path: Path, title: str, statistics: DatasetStatistics, samples: TrainingSamples | None = None
) -> None:
    """Write a page of the figures of a data set, and of samples where there are some."""
    parts = [samples_section(samples)] if samples else []
    train = statistics.splits[0]
    subtitle = f"{train.images:,} training images, {len(statistics.classes):,} classes"
    write_atomically(path, page(title, subtitle, [*parts, statistics_section(statistics)]))
