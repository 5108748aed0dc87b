"""What describes a machine is small, flat and needs no torch."""

import json
import subprocess
import sys
from importlib.metadata import version

from anysize.reports.environment import describe_environment


def test_it_is_flat_and_goes_to_json() -> None:
    environment = describe_environment(gpus="2 x A100", total_batch=128)
    assert environment["torch"] == version("torch")
    assert environment["gpus"] == "2 x A100"
    assert environment["total_batch"] == 128
    assert all(isinstance(value, str | int | float) for value in environment.values())
    assert json.loads(json.dumps(environment)) == environment


def test_reports_import_no_torch() -> None:
    code = (
        "import sys; from anysize.reports import html, compare, live_server, run_log, environment; "
        "environment.describe_environment(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_log_starts_without_bokeh_and_pandas() -> None:
    code = "import sys, anysize.reports.run_log; assert not {'bokeh', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
