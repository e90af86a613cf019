"""What keeps a stack from starting or running."""

from apphub_assets.errors import Conflict, Refused, Unavailable


class AlreadyRunning(Conflict):
    code, title = "stack_running", "A stack is running"


class NotRunning(Conflict):
    code, title = "stack_not_running", "No stack is running"


class PortTaken(Conflict):
    code, title = "port_taken", "Port taken"


class UnsafeHost(Refused):
    code, title = "unsafe_host", "Unsafe host"


class UnsafeFolder(Refused):
    code, title = "unsafe_folder", "Unsafe folder"


class ChildFailed(Unavailable):
    code, title = "child_failed", "A part of the stack failed"
