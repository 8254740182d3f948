"""A model as it goes to the boards: an ONNX file, the manifest that describes it, and a signature that they can check.

`manifest.py` says what a manifest may say, `signature.py` who may sign it, `golden.py` what the model must answer.
Pure: no files, no network, no runtime. Never pickle: ONNX, JSON and plain arrays are all that travels.
"""

from argosy_common.artefact.manifest import Manifest, Tensor

FILES = {"manifest": "manifest.json", "signature": "signature.json", "onnx": "model.onnx", "golden": "golden.bin"}
"""The parts of an artefact and their files in a folder, on boards as in what `argosy model export` writes."""

__all__ = ["FILES", "Manifest", "Tensor"]
