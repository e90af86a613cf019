"""Audit: who did or tried what, from where, and how it ended.

Table (schema `audit`): entries. A mutation's entry commits with the mutation; a refusal's on its own.
"""
