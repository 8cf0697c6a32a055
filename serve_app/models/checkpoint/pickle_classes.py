"""The names that the pickle of a YOLO checkpoint may contain. No other name is accepted.

The unpickler imports none of them: it only compares names. So no name in this list can cause code to run.
"""

from __future__ import annotations

# The classes in the checkpoints of all architectures that Ultralytics ships for the supported tasks. A test builds
# these architectures with the installed Ultralytics, and compares their classes with this list.
_OF_ULTRALYTICS = {
    "torch.nn.modules.activation": "ReLU SiLU Tanh",
    "torch.nn.modules.batchnorm": "BatchNorm2d",
    "torch.nn.modules.container": "ModuleList Sequential",
    "torch.nn.modules.conv": "Conv2d ConvTranspose2d",
    "torch.nn.modules.dropout": "Dropout",
    "torch.nn.modules.linear": "Identity Linear",
    "torch.nn.modules.loss": "BCEWithLogitsLoss",
    "torch.nn.modules.padding": "ZeroPad2d",
    "torch.nn.modules.pooling": "AdaptiveAvgPool2d MaxPool2d",
    "torch.nn.modules.upsampling": "Upsample",
    "ultralytics.nn.modules.block": "A2C2f AAttn ABlock AConv ADown Attention Bottleneck C2 C2PSA C2f C2fCIB C3 "
    "C3Ghost C3k C3k2 CBFuse CBLinear CIB DFL ELAN1 GhostBottleneck PSA PSABlock Proto Proto26 RealNVP RepBottleneck "
    "RepCSP RepNCSPELAN4 RepVGGDW ResNetBlock ResNetLayer SCDown SPP SPPELAN SPPF",
    "ultralytics.nn.modules.conv": "Concat Conv DWConv GhostConv RepConv",
    "ultralytics.nn.modules.head": "Classify Detect OBB OBB26 Pose Pose26 Segment Segment26 v10Detect",
    "ultralytics.nn.tasks": "ClassificationModel DetectionModel OBBModel PoseModel SegmentationModel",
    "ultralytics.utils": "IterableSimpleNamespace",
    "ultralytics.utils.loss": "BCEDiceLoss BboxLoss DFLoss E2ELoss KeypointLoss MultiChannelDiceLoss PoseLoss26 "
    "RLELoss RotatedBboxLoss SegmentLoss26 v8ClassificationLoss v8DetectionLoss v8OBBLoss v8PoseLoss "
    "v8SegmentationLoss",
    "ultralytics.utils.tal": "PoseTaskAlignedAssigner RotatedTaskAlignedAssigner SegTaskAlignedAssigner "
    "TaskAlignedAssigner",
}
# Names from older versions of Ultralytics, and the activations that ``activation:`` in an architecture may name.
_OTHERS = {
    "torch.nn.modules.activation": "ELU GELU Hardswish LeakyReLU Mish ReLU6",
    "torchvision.transforms.transforms": "CenterCrop Compose Normalize Resize ToTensor",  # of classification models
    "ultralytics.nn.modules": "Bottleneck C2 C2f C3 C3Ghost Classify Concat Conv DFL DWConv Detect GhostBottleneck "
    "GhostConv OBB Pose Proto SPP SPPF Segment",
    "ultralytics.nn.modules.block": "Silence",
    "ultralytics.nn.tasks": "YOLOv10DetectionModel",
    "ultralytics.utils.loss": "E2EDetectLoss v10DetectLoss",
    "ultralytics.yolo.utils": "IterableSimpleNamespace",
}


def _full_names(by_module: dict[str, str]) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module, names in by_module.items() for name in names.split())


SHIPPED_CLASSES = _full_names(_OF_ULTRALYTICS)
CLASSES = SHIPPED_CLASSES | _full_names(_OTHERS)

BFLOAT16 = "bfloat16"
STORAGES = {  # a tensor's storage -> NumPy's name of the type of its numbers, or BFLOAT16
    "torch.BFloat16Storage": BFLOAT16,
    "torch.BoolStorage": "?",
    "torch.ByteStorage": "u1",
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.IntStorage": "<i4",
    "torch.LongStorage": "<i8",
}
# The calls that make plain data or tensors. The unpickler has its own code for each of them.
CALLS = frozenset(
    {
        "__builtin__.set",
        "builtins.set",
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
    }
)
# Calls whose results we do not need, such as the fitness in NumPy's format, or the path of the training data. The
# unpickler does not make these calls, and returns an ``Inert`` instead of each result.
IGNORED_CALLS = frozenset(
    {
        "__builtin__.getattr",
        "_codecs.encode",
        "builtins.getattr",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray.scalar",
        "numpy.dtype",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "torch.device",
        "torchvision.transforms.functional.InterpolationMode",
    }
)
KNOWN = CLASSES | STORAGES.keys() | CALLS | IGNORED_CALLS
