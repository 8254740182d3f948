"""Update codecs: an update, one flat float32 vector, as few bytes (specs/codecs.md). Pure numpy, no Flower, no I/O."""
