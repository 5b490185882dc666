"""What the fork server imports, once: all that ranks, commands and benchmarks import, so that what is forked has it.

Nothing here may start a thread or compute with torch: of a process that forks, only the forking thread goes on.
"""

# ruff: noqa: F401
import gc
import os
import warnings

from tests.forking.server import UNDRAWN

gc.disable()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cv2
    import deepspeed
    import deepspeed.launcher.launch
    import deepspeed.launcher.runner
    import deepspeed.module_inject
    import deepspeed.module_inject.auto_ep_layer
    import deepspeed.moe.layer
    import deepspeed.ops.adam
    import deepspeed.ops.op_builder.all_ops
    import deepspeed.runtime.zero.muon.muon_optimizer
    import deepspeed.runtime.zero.stage3
    import matplotlib.backends.backend_agg
    import PIL.Image
    import rich._emoji_codes
    import torch._dynamo
    import torch.profiler
    import torch.utils.cpp_extension

    import yolo.bench.speed.__main__
    import yolo.calibration.worker
    import yolo.cli
    import yolo.launch.supervisor
    import yolo.planner.plan
    import yolo.tracking.report
    import yolo.train
    import yolo.training.loop.setup
    from yolo.tracking import charts
    from yolo.tracking.history import History

    PIL.Image.preinit()
    charts.training_chart(History((), ()))  # finds the fonts
    deepspeed.accelerator.get_accelerator()
    cv2.setNumThreads(0)
gc.freeze()
gc.enable()

_png = charts._png
charts._png = lambda figure: b"" if UNDRAWN in os.environ else _png(figure)
