"""The container engine: images, builds and sandboxes. The only place that knows Docker's SDK.

Nouns: an *engine* answers at a URL; a *build* turns a folder into an image and leaves nothing else; a *sandbox* is one
running app behind its relay on its own network. What belongs to whom is told by labels, so that what a crash leaves is
found by the next sweep. No tables; anything may call it.
"""

from .base_image import ensure_base_image
from .builds import OWNER_LABEL, BuildLimits, BuildSpec, BuiltImage, build, clear_build, clear_builds
from .engine import Engine, EngineInfo, Feed, ImageInfo
from .errors import (
    BuildCancelled,
    BuildFailed,
    BuildOutOfMemory,
    BuildTimeout,
    BuildTooLarge,
    BuildTooManyProcesses,
    EngineFault,
    EngineLost,
    EngineUnavailable,
    ImageMissing,
    LaunchFailed,
    SandboxMissing,
)
from .names import Part
from .sandboxes import ResourceProfile, Sandbox, Sandboxes, SandboxSpec
from .states import ContainerEvent, SandboxState, SandboxStats, SandboxStatus

__all__ = [
    "OWNER_LABEL",
    "BuildCancelled",
    "BuildFailed",
    "BuildLimits",
    "BuildOutOfMemory",
    "BuildSpec",
    "BuildTimeout",
    "BuildTooLarge",
    "BuildTooManyProcesses",
    "BuiltImage",
    "ContainerEvent",
    "Engine",
    "EngineFault",
    "EngineInfo",
    "EngineLost",
    "EngineUnavailable",
    "Feed",
    "ImageInfo",
    "ImageMissing",
    "LaunchFailed",
    "Part",
    "ResourceProfile",
    "Sandbox",
    "SandboxMissing",
    "SandboxSpec",
    "SandboxState",
    "SandboxStats",
    "SandboxStatus",
    "Sandboxes",
    "build",
    "clear_build",
    "clear_builds",
    "ensure_base_image",
]
