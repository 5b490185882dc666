"""What the fork server imports, once: all that ranks, commands and benchmarks import, so that what is forked has it.

Nothing here may start a thread or compute with torch: of a process that forks, only the forking thread goes on.
"""

# ruff: noqa: F401
import gc
import warnings

gc.disable()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cv2
    import deepspeed
    import deepspeed.launcher.launch
    import deepspeed.launcher.runner
    import deepspeed.module_inject
    import deepspeed.moe.layer
    import deepspeed.ops.adam
    import deepspeed.runtime.zero.stage3
    import matplotlib.backends.backend_agg
    import PIL.JpegImagePlugin
    import torch._dynamo
    import torch.profiler
    import torch.utils.cpp_extension

    import yolo.bench.calibration
    import yolo.bench.speed.__main__
    import yolo.bench.verification
    import yolo.cli
    import yolo.planner.choice
    import yolo.tracking.report
    import yolo.train
    import yolo.training.session

    deepspeed.accelerator.get_accelerator()
    cv2.setNumThreads(0)
gc.freeze()
gc.enable()
