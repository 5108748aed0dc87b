"""Convolutional networks that train, adapt and run at any size.

    import anysize

    run = anysize.train("quickstart")
    print(anysize.evaluate(run, sizes=[14, 28, 42]))

Importing this package is cheap: torch is imported when a name that needs it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "accuracy_by_setting": "anysize.reports.by_setting",
    "adapt": "anysize.experiment.adapt",
    "BatchPlan": "anysize.sizes.batch_plan",
    "PlanSampler": "anysize.sizes.sampler",
    "SampleKey": "anysize.sizes.batch",
    "Shapes": "anysize.sizes.shapes",
    "SizeMix": "anysize.sizes.mix",
    "GaussianWindow": "anysize.sizes.moving",
    "MovingMix": "anysize.sizes.moving",
    "WeightPoints": "anysize.sizes.moving",
    "SizeRamp": "anysize.sizes.schedule",
    "SizePhase": "anysize.sizes.schedule",
    "SizeSchedule": "anysize.sizes.schedule",
    "MixedSizeLoader": "anysize.data.mixed",
    "ModelSpec": "anysize.models.spec",
    "OnlineNorm1d": "anysize.norms.online.norm",
    "OnlineNorm2d": "anysize.norms.online.norm",
    "OnlineNorm3d": "anysize.norms.online.norm",
    "Preprocessing": "anysize.preprocessing",
    "Recipe": "anysize.recipe",
    "UserError": "anysize.registry",
    "average_online_state": "anysize.norms.online.distributed",
    "bench": "anysize.models.measure.speed",
    "calibrate": "anysize.experiment.calibrate",
    "calibrate_batch_norm": "anysize.norms.calibration",
    "calibrated": "anysize.norms.calibration",
    "checkpoint_segments": "anysize.models.surgery.recompute",
    "convert_norms": "anysize.norms.convert.model",
    "count_flops": "anysize.models.measure.flops",
    "create_model": "anysize.models.spec",
    "create_norm": "anysize.norms.factory",
    "elasticize": "anysize.models.surgery.elasticize",
    "evaluate": "anysize.experiment.evaluate",
    "expected_preprocessing": "anysize.models.expected",
    "explain": "anysize.experiment.explain",
    "export_onnx": "anysize.export.write",
    "export_program": "anysize.export.write",
    "export_run": "anysize.experiment.export",
    "fast_dev_run": "anysize.experiment.dev_run",
    "find_batch": "anysize.experiment.find_batch",
    "fix_norm_size": "anysize.norms.by_size.model",
    "fixed_norm_size": "anysize.norms.by_size.model",
    "fold_batch_norm": "anysize.models.surgery.fold",
    "grad_cam": "anysize.evaluation.grad_cam",
    "import_checkpoint": "anysize.experiment.importing",
    "list_models": "anysize.models.names",
    "load_model": "anysize.experiment.published",
    "load_recipe": "anysize.recipe",
    "load_run": "anysize.experiment.loaded",
    "lr_find": "anysize.experiment.lr_find",
    "load_weights": "anysize.experiment.weights",
    "norm_by_size": "anysize.norms.by_size.model",
    "open_runtime": "anysize.export.runtimes",
    "plan": "anysize.experiment.planning",
    "predict": "anysize.experiment.predict",
    "propose": "anysize.experiment.new",
    "quantize_run": "anysize.experiment.quantize",
    "quantize_model": "anysize.quantize.after_training",
    "repeat": "anysize.experiment.repeat",
    "run_scale_policy": "anysize.experiment.policy",
    "search": "anysize.experiment.search",
    "scale_gradient_state": "anysize.norms.online.norm",
    "scale_policy": "anysize.evaluation.scale_policy",
    "train": "anysize.experiment.train",
    "trusting_code": "anysize.models.trust",
}
__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from anysize.data.mixed import MixedSizeLoader as MixedSizeLoader
    from anysize.evaluation.grad_cam import grad_cam as grad_cam
    from anysize.evaluation.scale_policy import scale_policy as scale_policy
    from anysize.experiment.adapt import adapt as adapt
    from anysize.experiment.calibrate import calibrate as calibrate
    from anysize.experiment.dev_run import fast_dev_run as fast_dev_run
    from anysize.experiment.evaluate import evaluate as evaluate
    from anysize.experiment.explain import explain as explain
    from anysize.experiment.export import export_run as export_run
    from anysize.experiment.find_batch import find_batch as find_batch
    from anysize.experiment.importing import import_checkpoint as import_checkpoint
    from anysize.experiment.loaded import load_run as load_run
    from anysize.experiment.lr_find import lr_find as lr_find
    from anysize.experiment.new import propose as propose
    from anysize.experiment.planning import plan as plan
    from anysize.experiment.policy import run_scale_policy as run_scale_policy
    from anysize.experiment.predict import predict as predict
    from anysize.experiment.published import load_model as load_model
    from anysize.experiment.quantize import quantize_run as quantize_run
    from anysize.experiment.repeat import repeat as repeat
    from anysize.experiment.search import search as search
    from anysize.experiment.train import train as train
    from anysize.experiment.weights import load_weights as load_weights
    from anysize.export.runtimes import open_runtime as open_runtime
    from anysize.export.write import export_onnx as export_onnx
    from anysize.export.write import export_program as export_program
    from anysize.models.expected import expected_preprocessing as expected_preprocessing
    from anysize.models.measure.flops import count_flops as count_flops
    from anysize.models.measure.speed import bench as bench
    from anysize.models.names import list_models as list_models
    from anysize.models.spec import ModelSpec as ModelSpec
    from anysize.models.spec import create_model as create_model
    from anysize.models.surgery.elasticize import elasticize as elasticize
    from anysize.models.surgery.fold import fold_batch_norm as fold_batch_norm
    from anysize.models.surgery.recompute import checkpoint_segments as checkpoint_segments
    from anysize.models.trust import trusting_code as trusting_code
    from anysize.norms.by_size.model import fix_norm_size as fix_norm_size
    from anysize.norms.by_size.model import fixed_norm_size as fixed_norm_size
    from anysize.norms.by_size.model import norm_by_size as norm_by_size
    from anysize.norms.calibration import calibrate_batch_norm as calibrate_batch_norm
    from anysize.norms.calibration import calibrated as calibrated
    from anysize.norms.convert.model import convert_norms as convert_norms
    from anysize.norms.factory import create_norm as create_norm
    from anysize.norms.online.distributed import average_online_state as average_online_state
    from anysize.norms.online.norm import OnlineNorm1d as OnlineNorm1d
    from anysize.norms.online.norm import OnlineNorm2d as OnlineNorm2d
    from anysize.norms.online.norm import OnlineNorm3d as OnlineNorm3d
    from anysize.norms.online.norm import scale_gradient_state as scale_gradient_state
    from anysize.preprocessing import Preprocessing as Preprocessing
    from anysize.quantize.after_training import quantize_model as quantize_model
    from anysize.recipe import Recipe as Recipe
    from anysize.recipe import load_recipe as load_recipe
    from anysize.registry import UserError as UserError
    from anysize.reports.by_setting import accuracy_by_setting as accuracy_by_setting
    from anysize.sizes.batch import SampleKey as SampleKey
    from anysize.sizes.batch_plan import BatchPlan as BatchPlan
    from anysize.sizes.mix import SizeMix as SizeMix
    from anysize.sizes.moving import GaussianWindow as GaussianWindow
    from anysize.sizes.moving import MovingMix as MovingMix
    from anysize.sizes.moving import WeightPoints as WeightPoints
    from anysize.sizes.sampler import PlanSampler as PlanSampler
    from anysize.sizes.schedule import SizePhase as SizePhase
    from anysize.sizes.schedule import SizeRamp as SizeRamp
    from anysize.sizes.schedule import SizeSchedule as SizeSchedule
    from anysize.sizes.shapes import Shapes as Shapes


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'anysize' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
