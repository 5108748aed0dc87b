"""How soon the command line answers, and how soon training makes its first step.

    python benchmarks/startup.py [--repeats 5]

Claims: `anysize --help` takes under 0.5 s; `anysize train quickstart` under 5 s from the command to the end of the
first step. Beside them: `python -c pass` and `import torch, torchvision`, what no such command can go below.
"""

import argparse
import os
import subprocess
import sys
import tempfile

from harness import compare, print_environment, report

FIRST_STEP = """
import sys, time
from anysize.training import loop
record = loop.record
def first(*arguments):
    record(*arguments)
    import os
    os._exit(0)
loop.record = first
from anysize.experiment.train import train
train("quickstart", run=sys.argv[1])
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print_environment()
    python = sys.executable
    command = os.path.join(os.path.dirname(python), "anysize")
    medians = compare(
        {"python -c pass": lambda: run(python, "-c", "pass"), "anysize --help": lambda: run(command, "--help")},
        arguments.repeats,
    )
    report("anysize --help, seconds", medians["anysize --help"], 0.5, at_least=False)
    medians = compare(
        {
            "import torch, torchvision": lambda: run(python, "-c", "import torch, torchvision"),
            "first step": lambda: run(python, "-c", FIRST_STEP, tempfile.mkdtemp()),
        },
        arguments.repeats,
    )
    report("command to the end of the first step, seconds", medians["first step"], 5, at_least=False)


if __name__ == "__main__":
    main()
