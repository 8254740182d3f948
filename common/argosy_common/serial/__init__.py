"""What a station and a board say to each other over a serial cable (docs/protocol.md, "Serial").

    messages    what is said: JSON bodies
    exchange    how it arrives: a request and its answer in fragments, repeated until they are through
    frames      one fragment with its checksum, found again among any other bytes
    cobs        a frame's bytes without a zero, which is then the mark between frames

Pure: bytes, a clock and a byte port are handed in. Nothing here opens a device.
"""
