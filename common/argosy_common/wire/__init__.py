"""What travels: topics, envelopes and their bodies. Bytes in, typed objects out; no sockets, clock or files."""
