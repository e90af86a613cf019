"""The catalog: which web apps there are, what is known of them, and the images built from them.

Nouns: a *repository* is a registered Git address with a `Dockerfile`; a *tag* is a `key:value` pair that a
repository carries with a source (`author` wrote it into the repository, `manual` through the API, `auto` was
detected); an *ingestion* reads the repository at one commit and leaves *ingestion events*; a *build* makes an
image of one commit and keeps its log.

Tables (schema `catalog`): repositories, tags, repository_tags, ingestion_events, builds, build_log_chunks.
Written by this slice alone: by the API when people ask, by the assets `repository` and `image` when work is done.
"""
