"""The post-migration report: `facts` are read by a worker, `findings` follow from them, `pages` shows both.

All of it is pure. A worker reads the database's own records (`pgduet.postgres.reporting`), `attempts` sorts the audit log
into them, and the client adds what the workflow says. One document (`document`) has two faces: `markdown` and `html`.
"""
