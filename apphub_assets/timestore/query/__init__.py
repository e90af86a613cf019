"""Queries of one dataset: the language, one statement of SQL, five formats of answers."""
