"""What both ends of Argosy agree on: errors, settings, the wire, the link, blobs, and the seam to Flower.

Imports neither server nor client; never imports torch. `argosy_common.flower` is the only part that imports flwr.
"""

__version__ = "0.1.0"
