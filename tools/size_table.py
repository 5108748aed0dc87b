"""Print the accuracy by image size of groups of runs as a Markdown table, as in docs/results.md.

    python tools/size_table.py fixed=runs/fixed-0,runs/fixed-1 B+=runs/mixed-0,runs/mixed-1

Each group is one recipe with several seeds; a cell is the mean of top-1 over them, with the largest distance to it.
"""

import sys

import pandas as pd

from anysize.reports.reading import Run


def main() -> None:
    groups = dict(argument.split("=", 1) for argument in sys.argv[1:])
    header: list[str] = []
    for name, folders in groups.items():
        runs = [Run.read(folder).evaluation for folder in folders.split(",")]
        for calibrated, how in ((False, "as trained"), (True, "calibrated")):
            tables = [run[run["calibrated"] == calibrated].set_index("size")["top1"] * 100 for run in runs]
            frame = pd.concat(tables, axis=1)
            mean = frame.mean(axis=1)
            spread = frame.sub(mean, axis=0).abs().max(axis=1)
            if not header:
                header = ["sizes", "statistics", *(f"{size} px" for size in mean.index), "mean"]
                print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
            several = len(runs) > 1
            cells = [f"{m:.1f}" + (f" ±{s:.1f}" if several else "") for m, s in zip(mean, spread, strict=True)]
            print(f"| {name} | {how} | " + " | ".join(cells) + f" | {mean.mean():.1f} |")


if __name__ == "__main__":
    main()
