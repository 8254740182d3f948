"""Network enrolment: a device brings a join token and two keys, and leaves with a certificate; later with the next one.

`service.py` decides who is let in, `renewal.py` who gets the next certificate; `app.py` speaks HTTP, `server.py` is the
HTTPS server in its thread, `rate.py` slows strangers.
"""

from argosy_server.enrolment.server import EnrolmentServer
from argosy_server.enrolment.service import EnrolmentService

__all__ = ["EnrolmentServer", "EnrolmentService"]
