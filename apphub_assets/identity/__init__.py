"""Identity: who is asking, and what they may do.

An *identity* has a subject and scopes. Operator tokens come from settings; without any, the person at this machine
is signed in as `local-operator`. No tables yet.
"""
