"""What can go wrong with the container engine, a build or a sandbox.

Unavailable
└── EngineUnavailable        503  nobody answers at the engine's address
    └── EngineLost           503  the engine went away in the middle of a build; build again
EngineFault                  502  the engine answered, and refused
ImageMissing                 404
SandboxMissing               404  stopped, or never started
BuildCancelled               409
BuildFailed                  422  a step failed
├── BuildTimeout                  the deadline passed
├── BuildOutOfMemory
├── BuildTooLarge                 a step wrote more than its share
└── BuildTooManyProcesses
LaunchFailed                 422  the engine can't start this image with this command
"""

from apphub_assets.errors import AppHubError, Conflict, NotFound, Refused, Unavailable


class EngineUnavailable(Unavailable):
    code, title = "engine_unavailable", "Container engine unavailable"


class EngineLost(EngineUnavailable):
    code, title = "engine_lost", "Container engine lost during a build"


class EngineFault(AppHubError):
    status, code, title = 502, "engine_fault", "Container engine refused"


class ImageMissing(NotFound):
    code, title = "image_missing", "Image missing"


class SandboxMissing(NotFound):
    code, title = "sandbox_missing", "Sandbox missing"


class BuildCancelled(Conflict):
    code, title = "build_cancelled", "Build cancelled"


class BuildFailed(Refused):
    code, title = "build_failed", "Build failed"


class BuildTimeout(BuildFailed):
    code, title = "build_timeout", "Build took too long"


class BuildOutOfMemory(BuildFailed):
    code, title = "build_out_of_memory", "Build ran out of memory"


class BuildTooLarge(BuildFailed):
    code, title = "build_too_large", "Build wrote too much"


class BuildTooManyProcesses(BuildFailed):
    code, title = "build_too_many_processes", "Build started too many processes"


class LaunchFailed(Refused):
    code, title = "launch_failed", "Launch failed"
