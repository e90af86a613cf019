"""Search: find a repository by words, tags, state and dates, while typing.

Nouns: a *document* is what can be found of one repository; a *term* is anything that a document may be found by (a
word in a field, a `key:value` pair, a key, a status); the *postings* of a term are the documents that have it, kept
as one compressed bitmap; a *change* says that a document won or lost a term and was not merged into a bitmap yet.

Tables (schema `search`): documents, contents, terms, spellings, changes. `put_document` and `remove_document` write
inside the transaction that changes the repository and only ever append to shared tables; `merge` alone writes terms
and spellings.
"""
