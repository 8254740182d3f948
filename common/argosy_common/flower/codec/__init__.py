"""Codecs under Flower: a mod on the device, a Grid around a Grid on the coordinator (specs/codecs.md).

    device        mod.py       arrays returned − arrays received = an update, encoded
                  held.py      what a device keeps between rounds: the model, and what encoding lost
    coordinator   grid.py      `CodecGrid`: decodes replies as they come, and folds them where the strategy is a mean
                  line.py      the model as the devices have it, version by version
                  outgoing.py  what brings each device up to date
                  replies.py   a reply's arrays against the model that was sent
                  mean.py      the running weighted sum
                  spill.py     single replies on disk, for strategies that look at each
    both          groups.py    which arrays a codec takes, and which travel as they are
                  frames.py    codes as arrays of a record
                  plan.py      what a message says of all this

Neither the client app, nor the server app, nor the strategy knows.
"""

from flwr.app import Message

ARGOSY = "argosy.codec"
"""The name of the config record that holds a plan, and the beginning of all names that this layer uses."""


def has_plan(message: Message) -> bool:
    """Tell whether a message's arrays are compressed, or its reply's are to be. Loads nothing of the layer."""
    return message.has_content() and ARGOSY in message.content.config_records
