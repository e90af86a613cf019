"""Events: everything that happened, once, in one order.

A state change appends its event to the outbox in its own transaction. Sequence numbers are given afterwards, to
committed rows only, by whoever reads next: so they have no gaps and are never overtaken by a slow transaction.

Tables (schema `events`): outbox, sequencer. Any slice may append; nobody updates but the sequencer.
"""
