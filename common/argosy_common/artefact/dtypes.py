"""The types of tensors that travel, and how many bytes a number of each takes. No numpy: daemons ask too."""

SIZES = {"float32": 4, "float64": 8, "float16": 2, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8}
