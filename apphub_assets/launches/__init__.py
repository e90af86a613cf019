"""Launches: sandboxed containers of built images, and the way to them.

A *launch* is one container with limits, its own network and a life span. People write what they want (a row);
the *keeper* makes it true and writes what it sees. Table (schema `launches`): launches.
"""
