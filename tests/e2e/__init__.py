"""Tests of a whole AppHub, and what they know it by, whose assertions say what they saw."""

import pytest

pytest.register_assert_rewrite("tests.e2e.hub", "tests.e2e.stream")
