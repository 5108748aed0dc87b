"""How long a large report takes, and how large its file is.

    python benchmarks/report_page.py [--repeats 5] [--epochs 300] [--classes 1000] [--steps 20000]

Claims: the report of a run of 300 epochs, 1,000 classes and 20,000 rows of steps takes under 10 s and under 6 MB. The
run is made up. Beside it: the report of a run of 4 epochs and 4 classes, which is what figures and bokeh's own script
take.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from anysize.reports.html import write_report
from harness import compare, print_environment, report

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from made_up_run import write_made_up_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20_000)
    given = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory() as folder:
        small = write_made_up_run(Path(folder) / "small")
        large = write_made_up_run(
            Path(folder) / "large", epochs=given.epochs, classes=given.classes, steps=given.steps, pictures=16
        )
        medians = compare({"small": lambda: write_report(small), "large": lambda: write_report(large)}, given.repeats)
        report("large report, seconds", medians["large"], 10, at_least=False)
        report("large report, MB", write_report(large).stat().st_size / 1e6, 6, at_least=False)


if __name__ == "__main__":
    main()
