"""What Python's zipfile raises for bytes that are no whole archive."""

import struct
import zipfile
import zlib

# Also for one of a newer or encrypted kind, and where offsets lead out of it. A place before its
# begin is an OSError, as is a disk that fails.
DAMAGED = (
    *(zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError, zlib.error),
    struct.error,
)
