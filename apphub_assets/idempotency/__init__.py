"""Idempotency: a request that names a key is done once, however often it is sent.

A *claim* is a lock that lives as long as the transaction of the work; an *answer* is a row that commits with it. So
there is an answer if, and only if, the work was done. Table (schema `idempotency`): answers.
"""
