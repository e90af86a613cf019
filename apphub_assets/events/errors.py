"""Errors of the event stream."""

from apphub_assets.errors import InvalidInput, Refused


class InvalidJsonPath(InvalidInput):
    code, title = "invalid_json_path", "Invalid jsonPath filter expression"


class JsonPathTooSlow(Refused):
    code, title = "json_path_too_slow", "jsonPath filter takes too long"
