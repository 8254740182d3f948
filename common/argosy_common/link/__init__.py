"""The link: one MQTT 5 connection an end, over TLS 1.3 with client certificates, that comes back by itself.

The public interface is what this module exports. Nothing is queued across connections: `Link.publish` answers False
while there is none, and the layers above send again.
"""

from argosy_common.link.delivery import Delivery, Handler
from argosy_common.link.link import Link
from argosy_common.link.settings import LinkSettings, TlsFiles, Will
from argosy_common.link.stats import LinkStats

__all__ = ["Delivery", "Handler", "Link", "LinkSettings", "LinkStats", "TlsFiles", "Will"]
