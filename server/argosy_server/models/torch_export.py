"""For an app's export hook: a torch module as ONNX bytes that ONNX Runtime and OpenVINO take.

    from argosy_server.models.torch_export import export_torch

    def export_model(arrays: ArrayRecord) -> bytes:
        net = Net()
        net.load_state_dict(arrays.to_torch_state_dict())
        return export_torch(net, torch.zeros(1, 6, 128))

Torch, onnx and onnxscript are imported when it is called; they are not Argosy's own requirements.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from argosy_common.errors import ExportToolsMissing

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 18
"""Of ONNX: old enough for the runtimes that boards have, new enough for torch's exporter to need no conversion."""


def export_torch(
    module: nn.Module,
    example: Tensor,
    *,
    input_name: str = "input",
    output_names: Sequence[str] = ("output",),
    opset: int = OPSET,
) -> bytes:
    """Return a module as it is in evaluation mode, with a batch of any size, as the bytes of an ONNX file.

    Args:
        module: of one input; it is left in the mode that it was in.
        example: an input with its batch as first dimension, of any size.
        output_names: the answer first, then exits if the module returns several outputs.

    Raises:
        ExportToolsMissing: onnx or onnxscript is not installed.
    """
    import torch  # noqa: PLC0415  (the daemon, and runs without torch, never need it)

    for tool in ("onnx", "onnxscript"):
        try:
            importlib.import_module(tool)
        except ImportError:
            raise ExportToolsMissing(package=tool) from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of libraries that nobody asked for
    # a batch of one would be taken for a constant
    several = torch.cat([example, example]) if len(example) == 1 else example
    training = module.training
    module.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about itself
            program = torch.onnx.export(
                module,
                (several,),
                dynamo=True,
                input_names=[input_name],
                output_names=list(output_names),
                dynamic_shapes=({0: "batch"},),
                opset_version=opset,
                verbose=False,
            )
    finally:
        module.train(training)
    if program is None:
        raise RuntimeError("torch gave no program")
    data: bytes = program.model_proto.SerializeToString()
    return data
