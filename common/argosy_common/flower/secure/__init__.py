"""Secure coded aggregation under Flower: a mod on the device, a Grid around a Grid on the coordinator.

    device        mod.py       the client's stage around the app, and the holder's stage, both by messages
                  keep.py      the device's keys and its pinned operator's key
                  journal.py   prekeys, what was sent, votes and releases: one fsynced database
                  reply.py     an app's reply as one vector, a weight and metrics
    coordinator   grid.py      `SecureGrid`: cohorts in, one aggregate reply out
                  cohort.py    who is in a group, with which prekeys
                  session.py   one group's round over a Grid: the stages of `secagg.round`, by messages
                  scales.py    the ring codec's scales from round to round
    both          parcels.py   the protocol's messages as records of Flower messages
                  digest.py    the digest of a whole instruction

What the coordinator keeps for the rule of attempts is in `argosy_common.secure_ledger`, which its daemon reads as well.

Neither the client app, nor the server app, nor the strategy knows.
"""

from flwr.app import Message

SECAGG = "argosy.secagg"
"""The name of the config record that holds a stage, and the beginning of all names that this layer uses."""
HOLDER = "query.argosy_secagg"
"""The message type of what is said to holders, and of the request for prekeys."""
PHASES = ("train", "evaluate")
"""The message types of instructions whose replies are summed."""


def is_secure(message: Message) -> bool:
    """Tell whether a message belongs to secure aggregation. Loads nothing of the layer."""
    return message.has_content() and SECAGG in message.content.config_records
