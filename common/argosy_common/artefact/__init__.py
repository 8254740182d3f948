"""A model as it goes to the boards: an ONNX file, the manifest that describes it, and a signature that they can check.

`manifest.py` says what a manifest may say, `signature.py` who may sign it, `golden.py` what the model must answer.
Pure: no files, no network, no runtime. Never pickle: ONNX, JSON and plain arrays are all that travels.
"""

from argosy_common.artefact.manifest import Manifest, Tensor

__all__ = ["Manifest", "Tensor"]
