"""What goes wrong in a model script and in the allocation."""


class SDKBackendException(Exception):  # noqa: N818 - the real names
    """The back end failed."""


class BackendScriptParserException(SDKBackendException):
    """A model script does not parse."""


class AllocatorScriptParserException(BackendScriptParserException):
    """A command of a model script asks for what cannot be."""


class BackendAllocatorException(SDKBackendException):
    """The network does not fit onto the chip."""


class BackendRuntimeException(SDKBackendException):
    """A step that cannot run as things are."""


class BackendValueError(SDKBackendException):
    """A value that the back end does not take."""


class UnsupportedMetaArchError(SDKBackendException):
    """The chip cannot run this post-process."""
