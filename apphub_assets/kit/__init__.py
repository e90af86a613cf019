"""Technique without business words: database, ids, cursors, time. Nothing here knows what an app is."""
