"""Models on the coordinator: from the arrays of a finished run to signed versions, and onto the boards.

A version is made in `exporter` (the run's process), which starts `export_process` (a process of its own, the only
place where the app's hook runs); that checks the ONNX with `onnx_file` and hands back a `draft`; the daemon's
`registry` gives it a number, signs it and keeps it. `rollout` decides who gets it when, `rollouts` drives that.
`comparison` is for `argosy model diff`, `torch_export` for apps. The daemon imports no numpy, no runtime and no user
code.
"""
