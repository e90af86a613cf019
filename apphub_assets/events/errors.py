"""Errors of the event stream."""

from apphub_assets.errors import InvalidInput


class InvalidJsonPath(InvalidInput):
    code, title = "invalid_json_path", "Invalid jsonPath filter expression"
