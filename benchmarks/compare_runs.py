"""How long a comparison of a hundred runs takes, and how large its page is.

    python benchmarks/compare_runs.py [--runs 100] [--epochs 300]

Claims: `anysize compare` of 100 runs of 300 epochs takes under 15 s and writes a page under 8 MB. The runs are made up.
Beside it: the same command with one of the runs, what no comparison goes below.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import compare, print_environment, report

sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))
from made_runs import make_many


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = make_many(folder / "runs", arguments.runs, arguments.epochs)
        page = folder / "comparison.html"

        def command(*given: Path) -> None:
            words = [os.path.join(os.path.dirname(sys.executable), "anysize"), "compare", *map(str, given)]
            subprocess.run([*words, "--out", str(page)], check=True, stdout=subprocess.DEVNULL)

        medians = compare({"one run": lambda: command(runs[0]), "all runs": lambda: command(*runs)}, arguments.repeats)
        command(*runs)
        megabytes = page.stat().st_size / 1e6
    report(f"compare of {arguments.runs} runs, seconds", medians["all runs"], 15, at_least=False)
    report(f"page of {arguments.runs} runs, megabytes", megabytes, 8, at_least=False)


if __name__ == "__main__":
    main()
