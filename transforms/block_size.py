"""How large a block is: a block ends after so many rows, or so many bytes of text.

Large enough that what is done once a block costs little even for short documents, small enough
for a core's cache. No result depends on it.
"""

BLOCK_ROWS = 2048
BLOCK_BYTES = 1 << 20
