"""The seam to Flower: messages and arrays as bytes and blobs. Private parts of flwr are touched in `compat` only."""
