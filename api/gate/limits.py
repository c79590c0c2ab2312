"""How much of an upload is read, and how large a model it may describe."""

from __future__ import annotations

KIB, MIB = 2**10, 2**20
MAX_UPLOAD_BYTES = 512 * MIB  # of the file, and of its members unpacked
MAX_CONFIG_BYTES = MIB
MAX_CONFIG_RATIO = 200  # a thousand equal layers deflate to a hundredth
MAX_MEMBERS = 64
MAX_DIRECTORY_BYTES = 64 * KIB
MAX_NPY_HEADER_BYTES = 10_000  # NumPy's own limit
MAX_DEPTH = 64
MAX_NODES = 200_000
MAX_DIGITS = 400
MAX_LAYERS = 1_000
MAX_PARAMETERS = 2 * 10**8
MAX_ACTIVATION_BYTES = 8 * 2**30  # of one example
MAX_INTEGER = 10**7
MAX_PRODUCT = 10**8
MAX_ARRAY_TEXT = 4 * KIB  # of an array written into a config, as JSON
MAX_CSV_BYTES = 64 * MIB  # of text that is read cell by cell
MAX_FOOTER_BYTES = 4 * MIB
MAX_COLUMNS = 10_000
MAX_CELLS = 10**7
MAX_CLASSES = 1_000  # different texts of a target
MAX_DIMENSIONS = 8
MIN_ROWS = 8
NAME_LENGTH = 120
ECHO = 60  # characters of the upload that an error may show at a time
